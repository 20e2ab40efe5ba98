"""How far found values are from recorded ones, gathered by quantity."""

import math

import numpy as np


class Differences:
    """Of each quantity the largest difference that was added, and where it was.

    `worst` maps the quantity to (difference, where). A difference that is not a number counts as
    larger than any other.
    """

    def __init__(self):
        self.worst: dict[str, tuple[float, str]] = {}

    def absolute(self, quantity: str, found, expected, where: str = "") -> None:
        """Adds the largest absolute difference of two arrays of as many values."""
        found, expected = (np.ravel(np.asarray(x, np.float64)) for x in (found, expected))
        assert found.shape == expected.shape, (quantity, where, found.shape, expected.shape)
        self._add(quantity, float(np.abs(found - expected).max()), where)

    def relative(self, quantity: str, found: float, expected: float, where: str = "") -> None:
        """Adds the difference of two numbers, as a share of the expected one."""
        self._add(quantity, abs(float(found) - expected) / abs(expected), where)

    def check(self, limits: dict[str, float]) -> None:
        """Asserts that exactly these quantities were added and none exceeds its limit."""
        assert self.worst.keys() == limits.keys()
        beyond = [
            f"{quantity} differs by {difference:.2e}, more than {limits[quantity]:.0e} {where}"
            for quantity, (difference, where) in self.worst.items()
            if not difference <= limits[quantity]
        ]
        assert not beyond, "; ".join(beyond)

    def merge(self, other: "Differences") -> None:
        """Adds all that the other one gathered."""
        for quantity, (difference, where) in other.worst.items():
            self._add(quantity, difference, where)

    def _add(self, quantity: str, difference: float, where: str) -> None:
        before, _ = self.worst.get(quantity, (-1.0, ""))
        if not difference <= before and not math.isnan(before):
            self.worst[quantity] = (difference, where)
