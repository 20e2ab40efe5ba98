"""The one exception for mistakes that a user can mend."""


class UserError(Exception):
    """A mistake in a flag, field, path, dataset or checkpoint.

    The message is one sentence: what was wrong, where, and what to do. The command line prints it
    without a traceback and exits with code 2.
    """


def did_you_mean(word: str, known) -> str:
    """Returns ' (did you mean "x"?)' for the closest entry of `known`, or an empty string."""
    import difflib

    close = difflib.get_close_matches(str(word), [str(k) for k in known], n=1)
    return f' (did you mean "{close[0]}"?)' if close else ""
