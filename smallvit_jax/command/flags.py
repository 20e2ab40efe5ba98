"""Parses the command line: words → flags → (config, workdir, data_dir).

    smallvit CONFIG[:ARGUMENT] --workdir FOLDER [--data_dir FOLDER] [--config.FIELD=VALUE ...]

The first word is the same as --config; `python -m smallvit_jax.main` is the same as `smallvit`.

Every mistake gives a one-sentence error. ml_collections' `config_flags` shows tracebacks for most
mistakes and reads `--config.flag false` as true.
"""

import dataclasses
import pathlib

import ml_collections

from smallvit_jax.command.config_files import expand, known_files, load_config
from smallvit_jax.config.jobs import JOBS
from smallvit_jax.config.tree import FIELD_AT
from smallvit_jax.config.values import set_from_text, suggest_field
from smallvit_jax.errors import UserError, did_you_mean
from smallvit_jax.process.remote import is_remote

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
        first = argv[0] if not argv[0].startswith("-") else None
        return Flags(help=True, config=first or _value_after("--config", argv))
    if "--version" in argv:
        return Flags(version=True)
    flags, words, before = Flags(), list(argv), ""
    if words and not words[0].startswith("-"):
        before = flags.config = words.pop(0)
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
) -> tuple[ml_collections.ConfigDict, pathlib.Path | str | None, str | None]:
    """Returns the config with overrides, not yet validated, the workdir and the data folder.

    The workdir is text if it is an address such as gs://bucket/run, and may be None for a job that
    writes nothing. Raises UserError for an invalid config file, field or folder.
    """
    if flags.config is None:
        raise UserError(
            f"--config is missing: give a config, as in --config configs/quickstart.py"
            f"{known_files()}"
        )
    config = load_config(flags.config)
    for path, text in flags.overrides.items():
        set_from_text(config, path, text)
    job = JOBS.get(config.job)
    needed = flags.workdir is not None or job is None or job.writes
    workdir = _workdir(flags.workdir) if needed else None
    return config, workdir, _data_dir(flags.data_dir)


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


def _workdir(text: str | None) -> pathlib.Path | str:
    if text is None:
        raise UserError(
            "--workdir is missing: give the folder that the run writes to, as in --workdir runs/x"
        )
    if is_remote(text):
        return text
    path = expand(text)
    existing = next((part for part in (path, *path.parents) if part.exists()), path)
    if existing.exists() and not existing.is_dir():
        raise UserError(f'--workdir: "{existing}" is a file; give a folder')
    return path


def _data_dir(text: str | None) -> str | None:
    if text is None or is_remote(text):
        return text
    path = expand(text)
    if not path.is_dir():
        raise UserError(
            f'--data_dir: there is no folder "{path}"; give the folder with the prepared TFDS '
            "datasets"
        )
    return str(path)
