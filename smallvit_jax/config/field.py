"""The declaration of one field: everything that is known of it, in one place."""

import dataclasses

from smallvit_jax.config.rules import Rule


@dataclasses.dataclass(frozen=True)
class Field:
    """A field of the config.

    Attributes:
      default: its value unless a config file or the command line sets another.
      type: int, float, bool, str or tuple.
      about: one line of help, without the choices, which `rule` has.
      rule: what it may hold; None if every value of its type is fine.
      none: what None stands for; empty if the field cannot be None.
    """

    default: object
    type: type
    about: str
    rule: Rule | None = None
    none: str = ""

    @property
    def help(self) -> str:
        """The line that `--help` shows: what the field means and what there is to choose from."""
        choices = self.rule.choices if self.rule else {}
        listed = " | ".join(f"{n} ({m})" if m else n for n, m in choices.items())
        said = ": ".join(filter(None, [self.about, listed]))
        return f"{said}; none: {self.none}" if self.none else said

    @property
    def optional(self) -> bool:
        """Whether the field may be None, which leaves its value to the dataset or the model."""
        return bool(self.none)

    @property
    def length(self) -> int | None:
        """Number of entries that a list must have; None for other types and any length."""
        free = self.type is not tuple or self.optional or (self.rule and self.rule.element)
        return None if free else len(self.default)

    @property
    def element(self) -> type:
        """The type of a list's entries."""
        if self.rule and self.rule.element:
            return self.rule.element
        return float if self.optional else type(self.default[0])


def field(default: object, about: str, rule: Rule | None = None) -> Field:
    """Declares a field whose type is that of its default."""
    return Field(default, type(default), about, rule)


def optional(kind: type, about: str, none: str, rule: Rule | None = None) -> Field:
    """Declares a field that is None by default; `none` says what that stands for."""
    return Field(None, kind, about, rule, none)


Group = dict[str, "Field | Group"]
"""Fields and groups of fields by name, in the order that `--help` shows them."""
