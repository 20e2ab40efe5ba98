"""The exception for mistakes that a user can fix, and helpers for its messages."""

from collections.abc import Collection, Iterable


class UserError(Exception):
    """A mistake in a flag, field, path, dataset or checkpoint.

    The message is one sentence: what was wrong, where, and what to do. The command line prints it
    without a traceback and exits with code 2.
    """


def check_choice(what: str, name: object, choices: Collection[str]) -> None:
    """Raises UserError if `name` is not one of the choices; `what` names the field."""
    if name not in choices:
        raise UserError(
            f'{what} is "{name}"{did_you_mean(name, choices)}; choose one of {", ".join(choices)}'
        )


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """Returns ' (did you mean "x"?)' for the closest entry of `known`, or an empty string."""
    import difflib

    close = difflib.get_close_matches(str(word), [str(k) for k in known], n=1)
    return f' (did you mean "{close[0]}"?)' if close else ""
