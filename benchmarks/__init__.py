"""Measurements of speed and accuracy, run from a checkout; `results/` holds what they found."""
