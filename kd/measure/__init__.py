"""What a trained network answers, and what is measured of that."""
