"""Files, errors, signals, processes: every wing uses them, and no number depends on them."""
