"""Finds and loads config files: "FILE[:ARGUMENT]", or "NAME[:ARGUMENT]" of a shipped one."""

import difflib
import importlib.util
import inspect
import pathlib
import re
import textwrap
import traceback

import ml_collections

from smallvit_jax.config.check import check_fields
from smallvit_jax.config.values import TYPE_NAMES, suggest_field
from smallvit_jax.errors import UserError

_PACKAGE = pathlib.Path(__file__).resolve().parents[1]
# What ml_collections says.
_NO_SUCH_FIELD = re.compile(r'Key "([^"]*)" does not exist')
_WRONG_TYPE = re.compile(
    r"override field '([^']*)' \(reference\)\. (.*) is of original type .* to type <class '(.*)'>"
)


def load_config(config: str) -> ml_collections.ConfigDict:
    """Returns what `get_config` of a config file returns.

    Args:
      config: "FILE" or "FILE:ARGUMENT", the path of a Python file; or "NAME" or "NAME:ARGUMENT",
        the name of a shipped config. "configs/NAME.py" is the shipped one unless the working
        folder has that file.

    Raises:
      UserError: there is no such file, it fails, or it does not return a valid config.
    """
    text, argument = _split(config)
    path = _find(text)
    try:
        spec = importlib.util.spec_from_file_location("smallvit_jax_config_file", path)
        if spec is None or spec.loader is None:
            raise UserError(f'--config: "{path}" is not a Python file; its name must end in .py')
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        get_config = getattr(module, "get_config", None)
        if not callable(get_config):
            raise UserError(f'--config: "{path}" defines no function get_config')
        takes_argument = bool(inspect.signature(get_config).parameters)
        if argument is not None and not takes_argument:
            raise UserError(f'--config: "{path}" takes no argument; remove ":{argument}"')
        loaded = get_config() if argument is None else get_config(argument)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(f"--config: {_place(error, path)}: {_summary(error)}") from error
    if not isinstance(loaded, ml_collections.ConfigDict):
        raise UserError(
            f'--config: get_config of "{path}" returned {type(loaded).__name__}; return a modified '
            "default_config() from smallvit_jax.config"
        )
    check_fields(loaded)
    return loaded


def known_files() -> str:
    """Returns the end of an error message that lists the shipped configs."""
    return f"; shipped configs: {', '.join(sorted(file.stem for file in _shipped().glob('*.py')))}"


def expand(text: str) -> pathlib.Path:
    """Returns a path with a leading ~ or ~user replaced; raises UserError for an unknown user."""
    try:
        return pathlib.Path(text).expanduser()
    except RuntimeError as error:
        raise UserError(
            f'"{text}" starts with the home of an unknown user; write out the path'
        ) from error


def _split(config: str) -> tuple[str, str | None]:
    # The path ends at ".py", so that folder names may contain colons.
    match = re.fullmatch(r"(.*?\.py)(?::(.*))?", config)
    if match:
        return match[1], match[2]
    name, colon, argument = config.partition(":")
    return name, argument if colon else None


def _find(text: str) -> pathlib.Path:
    """Returns the path of a config file; raises UserError if there is none."""
    shipped = _shipped()
    named = shipped / f"{text}.py"
    if pathlib.Path(text).name == text and named.is_file():
        return named  # whatever files and folders the working folder has
    path = expand(text)
    if path.is_file():
        return path
    if path.parent == pathlib.Path("configs") and (shipped / path.name).is_file():
        return shipped / path.name
    what = f'"{path}" is a folder' if path.is_dir() else f'there is no file "{path}"'
    choices = {file.stem: file.stem for file in shipped.glob("*.py")}
    beside = path if path.is_dir() else path.parent
    choices |= {file.stem: str(file) for file in beside.glob("*.py")}
    close = difflib.get_close_matches(path.stem, choices, n=1)
    hint = f' (did you mean "{choices[close[0]]}"?)' if close else ""
    raise UserError(f"--config: {what}{hint}{known_files()}")


def _shipped() -> pathlib.Path:
    """Returns the folder of the shipped configs, relative if it is inside the working folder."""
    installed = _PACKAGE / "configs"  # in a wheel; a checkout has it beside the package
    folder = installed if installed.is_dir() else _PACKAGE.parent / "configs"
    here = pathlib.Path.cwd()
    return folder.relative_to(here) if folder.is_relative_to(here) else folder


def _place(error: BaseException, path: pathlib.Path) -> str:
    """Returns "FILE:LINE" of an error, with the innermost line inside the file."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path.absolute())]
    return f"{path}:{lines[-1]}" if lines else str(path)


def _summary(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return "it exits instead of returning a config"
    if match := _NO_SUCH_FIELD.search(str(error)):
        return f'there is no field "{match[1]}"{suggest_field(match[1])}'
    if match := _WRONG_TYPE.search(str(error)):
        expected = {kind.__name__: name for kind, name in TYPE_NAMES.items()}
        return f'"{match[1]}" must be {expected.get(match[3], match[3])}, not "{match[2]}"'
    words = " ".join(str(error.msg if isinstance(error, SyntaxError) else error).split())
    return textwrap.shorten(f"{type(error).__name__}: {words}", 200, placeholder=" ...")
