"""The text of `--help`: usage, examples, and every field with its help and value."""

import shutil
import textwrap

import ml_collections

from smallvit_jax.config.tree import DEFAULTS, FIELD_AT, flatten
from smallvit_jax.config.values import as_text

_USAGE = """\
Trains a small vision transformer from nothing on a small image dataset.

Usage: python -m smallvit_jax.main --config FILE[:ARGUMENT] --workdir FOLDER
                                   [--data_dir FOLDER] [--config.FIELD=VALUE ...]

  --config FILE[:ARGUMENT]  what to run; ARGUMENT is what the file takes, mostly MODEL,DATASET
  --workdir FOLDER          where checkpoints, metrics and results go; the same command again
                            continues an interrupted run
  --data_dir FOLDER         prepared TFDS datasets; without it, the variable TFDS_DATA_DIR
  --config.FIELD=VALUE      changes one field of the config, as often as needed
  --help, -h                this text, with the values of --config when it is given
  --version                 the version

Examples:
  python -m smallvit_jax.main --config configs/quickstart.py --workdir runs/quickstart
  python -m smallvit_jax.main --config configs/recipe.py:vit,cifar10 --workdir runs/cifar10
  python -m smallvit_jax.main --config configs/pretrain.py:vit,cifar10 --workdir runs/short \\
      --config.pretrain.epochs=20 --config.pretrain.views.blur=1.0,0.1,0.5
"""


def help_text(config: ml_collections.ConfigDict | None = None, source: str | None = None) -> str:
    """Returns the text of `--help` with the values of `config`, which was read from `source`."""
    values = flatten(config) if config else DEFAULTS
    origin = f"values of {source}" if source else "default values; add --config to see a file's"
    width = max(60, min(100, shutil.get_terminal_size((100, 24)).columns))
    lines = [_USAGE, f"Fields ({origin}):"]
    for path, field in FIELD_AT.items():
        lines += _entry(f"  {path}={_typed(values[path])}", field.help, width)
    return "\n".join(lines)


def _typed(value: object) -> str:
    """Returns a value the way one would type it: 0.4,0.4,0.2,0.1 for a tuple."""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return value if isinstance(value, str) else as_text(value)


def _entry(field: str, comment: str, width: int) -> list[str]:
    column = 46
    texts = textwrap.wrap(comment, width - column) or [""]
    if len(field) > column - 2:
        return [field, *(" " * column + text for text in texts)]
    return [field.ljust(column) + texts[0], *(" " * column + text for text in texts[1:])]
