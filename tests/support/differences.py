"""The largest differences between computed and recorded values, by quantity."""

import math

import numpy as np


class Differences:
    """The largest difference added for each quantity, and where it occurred.

    `worst` maps a quantity to (difference, where). NaN counts as larger than any number.
    """

    def __init__(self):
        self.worst: dict[str, tuple[float, str]] = {}

    def absolute(self, quantity: str, found, expected, where: str = "") -> None:
        """Adds the largest absolute difference of two arrays of the same size."""
        found, expected = (np.ravel(np.asarray(x, np.float64)) for x in (found, expected))
        assert found.shape == expected.shape, (quantity, where, found.shape, expected.shape)
        self._add(quantity, float(np.abs(found - expected).max()), where)

    def relative(self, quantity: str, found: float, expected: float, where: str = "") -> None:
        """Adds the difference of two numbers relative to the expected one."""
        self._add(quantity, abs(float(found) - expected) / abs(expected), where)

    def check(self, limits: dict[str, float]) -> None:
        """Asserts that exactly these quantities were added and that none exceeds its limit."""
        assert self.worst.keys() == limits.keys()
        too_large = [
            f"{quantity} differs by {difference:.2e}, more than {limits[quantity]:.0e} {where}"
            for quantity, (difference, where) in self.worst.items()
            if not difference <= limits[quantity]
        ]
        assert not too_large, "; ".join(too_large)

    def merge(self, other: "Differences") -> None:
        """Adds everything that `other` holds."""
        for quantity, (difference, where) in other.worst.items():
            self._add(quantity, difference, where)

    def _add(self, quantity: str, difference: float, where: str) -> None:
        before, _ = self.worst.get(quantity, (-1.0, ""))
        if not difference <= before and not math.isnan(before):
            self.worst[quantity] = (difference, where)
