"""The declaration of a config field."""

import builtins
import dataclasses
from typing import Any

from smallvit_jax.config.rules import Rule


@dataclasses.dataclass(frozen=True)
class Field:
    """A field of the config.

    Attributes:
      default: the value unless a config file or the command line sets another.
      type: int, float, bool, str or tuple.
      about: one line of help, without the choices, which come from `rule`.
      rule: constraint on its value; None if any value of its type is allowed.
      none: what None, the default, means; empty if the field cannot be None.
    """

    default: Any
    type: type
    about: str
    rule: Rule | None = None
    none: str = ""

    @property
    def help(self) -> str:
        """The line that `--help` shows: what the field means and its choices."""
        choices = self.rule.choices if self.rule else {}
        listed = " | ".join(f"{n} ({m})" if m else n for n, m in choices.items())
        text = ": ".join(filter(None, [self.about, listed]))
        return f"{text}; default: {self.none}" if self.none else text

    @property
    def optional(self) -> bool:
        """Whether the field may be None, which leaves its value to the dataset or the model."""
        return bool(self.none)

    @property
    def length(self) -> int | None:
        """Required length of a list; None for other types and lists of any length."""
        free = self.type is not tuple or self.optional or (self.rule and self.rule.element)
        return None if free else len(self.default)

    @property
    def element(self) -> builtins.type:
        """The type of a list's entries."""
        if self.rule and self.rule.element:
            return self.rule.element
        return float if self.optional else type(self.default[0])


def field(default: object, about: str, rule: Rule | None = None) -> Field:
    """Declares a field with the type of its default."""
    return Field(default, type(default), about, rule)


def optional(kind: type, about: str, none: str, rule: Rule | None = None) -> Field:
    """Declares a field that is None by default; `none` says what that means."""
    return Field(None, kind, about, rule, none)


Group = dict[str, "Field | Group"]
"""Fields and groups of fields by name, in the order of `--help`."""
