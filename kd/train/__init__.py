"""How a network is trained, and how its teachers answer."""
