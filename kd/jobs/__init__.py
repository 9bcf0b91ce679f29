"""One function for each rule: it takes a path and publishes a folder."""
