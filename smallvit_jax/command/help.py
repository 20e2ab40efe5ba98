"""The text of `--help`: usage, examples, and every config field with its help and value."""

import shutil
import textwrap

import ml_collections

from smallvit_jax.config.tree import DEFAULTS, FIELD_AT, flatten
from smallvit_jax.config.values import as_text

_USAGE = """\
Trains a small vision transformer from scratch on a small image dataset.

Usage: smallvit CONFIG[:ARGUMENT] --workdir FOLDER [--data_dir FOLDER] [--config.FIELD=VALUE ...]
   or: python -m smallvit_jax.main --config CONFIG[:ARGUMENT] --workdir FOLDER ...

  CONFIG[:ARGUMENT]         config file to run, or the name of one that is shipped, such as recipe;
                            most take MODEL,DATASET as the argument
  --workdir FOLDER          folder for checkpoints, metrics and results; repeat the command to
                            resume an interrupted run
  --data_dir FOLDER         folder with prepared TFDS datasets; default: $TFDS_DATA_DIR. Both may
                            be in a bucket, as in gs://bucket/runs/x
  --config.FIELD=VALUE      set a config field, or none for the default that its help names; may be
                            repeated
  --help, -h                show this help, with the values of --config if given
  --version                 show the version

Examples:
  smallvit quickstart --workdir runs/quickstart
  smallvit recipe:vit,cifar10 --workdir runs/cifar10
  python -m smallvit_jax.main --config configs/pretrain.py:vit,cifar10 --workdir runs/short \\
      --config.pretrain.epochs=20 --config.pretrain.views.blur=1.0,0.1,0.5
"""


def help_text(config: ml_collections.ConfigDict | None = None, source: str | None = None) -> str:
    """Returns the text of `--help` with the values of `config`, read from `source`."""
    values = flatten(config) if config else DEFAULTS
    origin = (
        f"values of {source}" if source else "default values; add --config to see those of a file"
    )
    width = max(60, min(100, shutil.get_terminal_size((100, 24)).columns))
    lines = [_USAGE, f"Fields ({origin}):"]
    for path, field in FIELD_AT.items():
        lines += _entry(f"  {path}={_typed(values[path])}", field.help, width)
    return "\n".join(lines)


def _typed(value: object) -> str:
    """Formats a value as typed on the command line: 0.4,0.4,0.2,0.1 for a tuple."""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return value if isinstance(value, str) else as_text(value)


def _entry(field: str, comment: str, width: int) -> list[str]:
    column = 46
    texts = textwrap.wrap(comment, width - column) or [""]
    if len(field) > column - 2:
        return [field, *(" " * column + text for text in texts)]
    return [field.ljust(column) + texts[0], *(" " * column + text for text in texts[1:])]
