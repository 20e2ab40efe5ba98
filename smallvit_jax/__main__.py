"""Runs `python -m smallvit_jax`, which is the same as `python -m smallvit_jax.main`."""

import sys

from smallvit_jax.main import main

if __name__ == "__main__":
    sys.exit(main())
