"""The answers of trained networks, and what is measured on them."""
