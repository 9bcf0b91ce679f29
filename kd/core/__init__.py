"""Files, errors, signals, processes: what every wing stands on, and no number depends on."""
