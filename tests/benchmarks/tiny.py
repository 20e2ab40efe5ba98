"""A vision transformer small enough to measure in a moment."""

TINY = {"width": 24, "depth": 3, "heads": 2, "drop_path": 0.0, "init": "fan_in"}
