"""Constraints on field values beyond their type."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeGuard


@dataclasses.dataclass(frozen=True)
class Rule:
    """A constraint on a field's value.

    Attributes:
      allowed: completes the sentence "must be ...".
      accepts: whether a value of the field's type satisfies the rule.
      choices: names to choose from, with their meanings ("" if the name is enough); empty for
        fields with free values.
      element: type of the entries of a list of any length; None for other fields.
    """

    allowed: str
    accepts: Callable[[Any], bool]
    choices: Mapping[str, str] = dataclasses.field(default_factory=dict)
    element: type | None = None


def one_of(*names: str | Mapping[str, str]) -> Rule:
    """One of the given names; a mapping adds the meanings that `--help` shows."""
    choices: dict[str, str] = {}
    for name in names:
        choices |= {name: ""} if isinstance(name, str) else name
    return Rule("one of " + ", ".join(choices), lambda value: value in choices, choices)


def one_of_numbers(meanings: Mapping[int, str]) -> Rule:
    """One of the given numbers, with the meanings that `--help` shows."""
    choices = {str(number): meaning for number, meaning in meanings.items()}
    *first, last = choices
    return Rule(f"{', '.join(first)} or {last}", lambda value: value in meanings, choices)


def at_least(low: float) -> Rule:
    """A finite number, at least `low`."""
    return Rule(f"at least {low}", lambda value: low <= value < math.inf)


def list_of(allowed: str, element: type, accepts: Callable[[Any], bool]) -> Rule:
    """A non-empty list whose entries all satisfy `accepts`."""
    return Rule(
        f"one or more {allowed}",
        lambda value: bool(value) and all(accepts(entry) for entry in value),
        element=element,
    )


def is_positive(value: object) -> bool:
    """Whether the value is a finite number above 0."""
    return _is_number(value) and 0 < value < math.inf


def is_count(value: object) -> bool:
    """Whether the value is a whole number above 0."""
    return type(value) is int and value >= 1


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_range(value: tuple, high: float) -> bool:
    return (
        len(value) == 2
        and all(_is_number(v) and math.isfinite(v) for v in value)
        and 0 < value[0] <= value[1] <= high
    )


def _are_seeds(value: tuple) -> bool:
    whole = all(type(v) is int and 0 <= v < 2**32 for v in value)
    return bool(value) and whole and len(set(value)) == len(value)


POSITIVE = Rule("a finite number above 0", lambda value: 0 < value < math.inf)
NOT_NEGATIVE = Rule("a finite number, at least 0", lambda value: 0 <= value < math.inf)
PROBABILITY = Rule("between 0 and 1", lambda value: 0 <= value <= 1)
BELOW_ONE = Rule("at least 0 and below 1", lambda value: 0 <= value < 1)
BETWEEN = Rule("above 0 and below 1", lambda value: 0 < value < 1)
FRACTION = Rule("above 0 and at most 1", lambda value: 0 < value <= 1)
PROBABILITIES = Rule(
    "numbers between 0 and 1", lambda value: all(_is_number(p) and 0 <= p <= 1 for p in value)
)
AREA_RANGE = Rule("low,high with 0 < low <= high <= 1", lambda value: _is_range(value, 1.0))
POSITIVE_RANGE = Rule("low,high with 0 < low <= high", lambda value: _is_range(value, math.inf))
JITTER = Rule(
    "brightness,contrast,saturation,hue, all at least 0 and hue at most 0.5",
    lambda value: all(_is_number(v) and 0 <= v < math.inf for v in value) and value[3] <= 0.5,
)
SEED = Rule("between 0 and 4294967295", lambda value: 0 <= value < 2**32)
SEEDS = Rule("one or more different whole numbers from 0 to 4294967295", _are_seeds, element=int)
COUNTS = list_of("whole numbers, each at least 1", int, is_count)
POSITIVE_NUMBERS = list_of("numbers above 0", float, is_positive)
