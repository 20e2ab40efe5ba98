"""Field values as text, on the command line or in the name of a variant."""

import difflib
import math
import re
from collections.abc import Callable
from typing import Any

import ml_collections

from smallvit_jax.config.tree import FIELD_AT, set_value
from smallvit_jax.errors import UserError

TYPE_NAMES = {
    int: "a whole number",
    float: "a finite number",
    bool: "true or false",
    str: "text",
    tuple: "a list of numbers like 0.5,1.0",
}


def set_from_text(config: ml_collections.ConfigDict, path: str, text: str) -> None:
    """Sets the field at a dotted path to the value of `text`.

    Raises UserError for an unknown path, a group, or text that does not have the field's type.
    """
    if path not in FIELD_AT:
        inside = [field for field in FIELD_AT if field.startswith(f"{path}.")]
        if not inside:
            raise UserError(f'--config.{path}: there is no field "{path}"{suggest_field(path)}')
        raise UserError(
            f"--config.{path}: a group takes no value; its fields are "
            f"{', '.join(field.removeprefix(f'{path}.') for field in inside)}, as in "
            f"--config.{inside[0]}=VALUE"
        )
    set_value(config, path, read_value(path, text))


def read_value(path: str, text: str) -> object:
    """Parses `text` as a value of the field at `path`; raises UserError.

    bool: true/false, yes/no, 1/0. int: whole numbers, also as 1e3. float: finite. tuple: 0.5,1.0 or
    (0.5,1.0). Fields that are None by default also take "none".
    """
    field = FIELD_AT[path]
    if field.optional and text.strip().lower() == "none":
        return None
    try:
        if field.type is not str and not text.isascii():  # Python also reads other digits
            raise ValueError(text)
        if field.type is tuple:
            return _read_tuple(text.strip(), field.element)
        return _READERS[field.type](text)
    except ValueError:
        expected = TYPE_NAMES[field.type] + (" or none" if field.optional else "")
        raise UserError(f'--config.{path} must be {expected}, not "{text}"') from None


def suggest_field(path: str, prefix: str = "") -> str:
    """Returns ' (did you mean "a.b"?)' for the fields closest to a wrong path, or "".

    Compares whole paths first, then last names, to find fields in the wrong group too.
    """
    last_names = {field: field.rpartition(".")[2] for field in FIELD_AT}
    close = difflib.get_close_matches(path, FIELD_AT, n=1)
    close_name = difflib.get_close_matches(path.rpartition(".")[2], set(last_names.values()), n=1)
    close += [
        field for field in FIELD_AT if [last_names[field]] == close_name and field not in close
    ]
    if not close:
        return ""
    return " (did you mean " + " or ".join(f'"{prefix}{field}"' for field in close[:3]) + "?)"


def as_text(value: object) -> str:
    """Formats a value for a message: strings in quotes; true, false and none in lowercase."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)


def _read_bool(word: str) -> bool:
    if word.lower() in ("true", "yes", "1"):
        return True
    if word.lower() in ("false", "no", "0"):
        return False
    raise ValueError(word)


def _read_int(word: str) -> int:
    try:
        return int(word)
    except ValueError:
        number = float(word)
        if not number.is_integer() or abs(number) > 2**53:
            raise
        return int(number)


def _read_float(word: str) -> float:
    number = float(word)
    if not math.isfinite(number):
        raise ValueError(word)
    return number


def _read_tuple(word: str, element: type) -> tuple:
    inside = re.fullmatch(r"\((.*)\)|([^()]*)", word)
    if inside is None:
        raise ValueError(word)
    items = inside[1] if inside[1] is not None else inside[2]
    return tuple(_READERS[element](item) for item in items.strip().removesuffix(",").split(","))


_READERS: dict[type, Callable[[str], Any]] = {
    bool: _read_bool,
    int: _read_int,
    float: _read_float,
    str: str,
}
