"""Measurements of kd: `make bench`, or `python -m bench.loops` and so on for one of them. Not part of the package."""
