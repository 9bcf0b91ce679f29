"""What is to be made: a study, its cells and their paths, what is current; neither torch nor pandas."""
