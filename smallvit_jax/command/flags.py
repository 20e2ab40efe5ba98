"""Parses the command line: words → flags → (config, workdir, data_dir).

    python -m smallvit_jax.main --config FILE[:ARGUMENT] --workdir FOLDER [--data_dir FOLDER]
                                [--config.FIELD=VALUE ...]

Every mistake gives a one-sentence error. ml_collections' `config_flags` shows tracebacks for most
mistakes and reads `--config.flag false` as true.
"""

import dataclasses
import difflib
import importlib.util
import inspect
import pathlib
import re
import textwrap
import traceback

import ml_collections

from smallvit_jax.config.check import check_fields
from smallvit_jax.config.jobs import JOBS
from smallvit_jax.config.tree import FIELD_AT
from smallvit_jax.config.values import set_from_text, suggest_field
from smallvit_jax.errors import UserError, did_you_mean

FLAGS = ("--config", "--workdir", "--data_dir", "--help", "--version")


@dataclasses.dataclass
class Flags:
    """The words of the command line by flag, not yet interpreted."""

    config: str | None = None
    workdir: str | None = None
    data_dir: str | None = None
    overrides: dict[str, str] = dataclasses.field(default_factory=dict)
    help: bool = False
    version: bool = False


def read_flags(argv: list[str]) -> Flags:
    """Sorts the words after the program's name into flags; raises UserError for invalid words.

    With --help, ignores everything but the config file.
    """
    if "--help" in argv or "-h" in argv:
        return Flags(help=True, config=_value_after("--config", argv))
    if "--version" in argv:
        return Flags(version=True)
    flags, words, before = Flags(), list(argv), ""
    while words:
        word = words.pop(0)
        name, equals, value = word.partition("=")
        _check_flag(name, word, before)
        if not equals:
            if not words or words[0].startswith("--"):
                raise UserError(_missing_value(name))
            value = words.pop(0)
        _store(flags, name, value)
        before = f"{name} {value}"
    return flags


def resolve(
    flags: Flags,
) -> tuple[ml_collections.ConfigDict, pathlib.Path | None, str | None]:
    """Returns the config with overrides, not yet validated, the workdir and the data folder.

    The workdir may be None for a job that writes nothing. Raises UserError for an invalid config
    file, field or folder.
    """
    if flags.config is None:
        raise UserError(
            f"--config is missing: give a config file, as in --config configs/quickstart.py"
            f"{_config_files()}"
        )
    config = load_config(flags.config)
    for path, text in flags.overrides.items():
        set_from_text(config, path, text)
    job = JOBS.get(config.job)
    needed = flags.workdir is not None or job is None or job.writes
    workdir = _workdir(flags.workdir) if needed else None
    return config, workdir, _data_dir(flags.data_dir)


def load_config(file_and_argument: str) -> ml_collections.ConfigDict:
    """Returns what `get_config` of "FILE" or "FILE:ARGUMENT" returns; raises UserError."""
    path, argument = _split(file_and_argument)
    if not path.is_file():
        raise UserError(_no_such_config(path))
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
        config = get_config() if argument is None else get_config(argument)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"--config: {_place(error, path)}: {_summary(error)}") from error
    if not isinstance(config, ml_collections.ConfigDict):
        raise UserError(
            f'--config: get_config of "{path}" returned {type(config).__name__}; return a modified '
            "default_config() from smallvit_jax.config"
        )
    check_fields(config)
    return config


def _value_after(name: str, argv: list[str]) -> str | None:
    for word, following in zip(argv, [*argv[1:], "--"], strict=True):
        if word.startswith(f"{name}="):
            return word.removeprefix(f"{name}=")
        if word == name and not following.startswith("-"):
            return following
    return None


def _check_flag(name: str, word: str, before: str) -> None:
    if name in FLAGS or name.startswith("--config."):
        return
    if not word.startswith("-"):
        place = f' after "{before}"' if before else ""
        raise UserError(
            f'unexpected argument "{word}"{place}: write settings as --name=value, in quotes if '
            "they contain spaces"
        )
    hint = did_you_mean(name, FLAGS) or suggest_field(name.lstrip("-"), prefix="--config.")
    raise UserError(f"unknown flag {name}{hint}; --help lists all flags")


def _missing_value(name: str) -> str:
    field = FIELD_AT.get(name.removeprefix("--config."))
    if field is not None and field.type is bool:
        return f"{name} needs a value: write {name}=true or {name}=false"
    return f"{name} needs a value, as in {name}=VALUE"


def _store(flags: Flags, name: str, value: str) -> None:
    if name.startswith("--config."):
        path = name.removeprefix("--config.")
        if path in flags.overrides:
            raise UserError(f"{name} is given twice; keep one")
        flags.overrides[path] = value
        return
    field = name.removeprefix("--")
    if field in ("help", "version"):
        raise UserError(f"{name} takes no value; remove the value")
    if getattr(flags, field) is not None:
        raise UserError(f"{name} is given twice; keep one")
    if not value.strip():
        raise UserError(f"{name} is empty; give it a value, as in {name}=VALUE")
    setattr(flags, field, value)


def _split(file_and_argument: str) -> tuple[pathlib.Path, str | None]:
    # The path ends at ".py", so that folder names may contain colons.
    match = re.fullmatch(r"(.*?\.py)(?::(.*))?", file_and_argument)
    file, argument = match.groups() if match else (file_and_argument.partition(":")[0], None)
    return _expand(file), argument


def _expand(text: str) -> pathlib.Path:
    """Replaces a leading ~ or ~user."""
    try:
        return pathlib.Path(text).expanduser()
    except RuntimeError as error:
        raise UserError(
            f'"{text}" starts with the home of an unknown user; write out the path'
        ) from error


def _no_such_config(path: pathlib.Path) -> str:
    what = f'"{path}" is a folder' if path.is_dir() else f'there is no file "{path}"'
    folders = (path if path.is_dir() else path.parent, _configs_folder())
    files = {file.stem: file for folder in folders if folder for file in folder.glob("*.py")}
    close = difflib.get_close_matches(path.stem, files, n=1)
    hint = f' (did you mean "{files[close[0]]}"?)' if close else ""
    return f"--config: {what}{hint}{_config_files()}"


def _configs_folder() -> pathlib.Path | None:
    """Returns `configs/` in the working folder, else in the checkout in use, else None."""
    checkout = pathlib.Path(__file__).resolve().parents[2]
    if pathlib.Path("configs/quickstart.py").is_file():
        return pathlib.Path("configs")
    return checkout / "configs" if (checkout / "configs/quickstart.py").is_file() else None


def _config_files() -> str:
    folder = _configs_folder()
    if folder is None:
        return (
            "; configs/ comes with a checkout of the repository, not with an installed wheel: run "
            "from a checkout, or give the path of your own config file"
        )
    return f"; {folder}/ has {', '.join(sorted(file.name for file in folder.glob('*.py')))}"


def _place(error: Exception, path: pathlib.Path) -> str:
    """Returns "FILE:LINE" of an error, with the innermost line inside the file."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path.absolute())]
    return f"{path}:{lines[-1]}" if lines else str(path)


def _summary(error: Exception) -> str:
    words = " ".join(str(error.msg if isinstance(error, SyntaxError) else error).split())
    return textwrap.shorten(f"{type(error).__name__}: {words}", 200, placeholder=" ...")


def _workdir(text: str | None) -> pathlib.Path:
    if text is None:
        raise UserError(
            "--workdir is missing: give the folder that the run writes to, as in --workdir runs/x"
        )
    if "://" in text:
        raise UserError(f'--workdir must be a folder on this machine, not "{text}"')
    path = _expand(text)
    existing = next((part for part in (path, *path.parents) if part.exists()), path)
    if existing.exists() and not existing.is_dir():
        raise UserError(f'--workdir: "{existing}" is a file; give a folder')
    return path


def _data_dir(text: str | None) -> str | None:
    if text is None:
        return None
    path = _expand(text)
    if not path.is_dir():
        raise UserError(
            f'--data_dir: there is no folder "{path}"; give the folder with the prepared TFDS '
            "datasets"
        )
    return str(path)
