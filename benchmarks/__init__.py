"""Speed and accuracy benchmarks, run from a checkout; their results are in `results/`."""
