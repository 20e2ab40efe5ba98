"""The text of `--help`: usage, examples, and every field with its comment and value.

The comments are read from the source of `smallvit_jax/config.py`, where the fields are declared.
"""

import ast
import inspect
import io
import shutil
import textwrap
import tokenize

import ml_collections

from smallvit_jax.config import tree as config_module
from smallvit_jax.config.check import show

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
    values = config_module.leaves(config if config else config_module.default_config())
    origin = f"values of {source}" if source else "default values; add --config to see a file's"
    width = max(60, min(100, shutil.get_terminal_size((100, 24)).columns))
    lines = [_USAGE, f"Fields ({origin}):"]
    for path, comment in field_comments().items():
        lines += _entry(f"  {path}={_typed(values[path])}", comment, width)
    return "\n".join(lines)


def field_comments() -> dict[str, str]:
    """Returns the comment of each field, by dotted path, in the order they are declared.

    A field's comment stands behind it or, where the line would be too long, directly above it.
    """
    source = inspect.getsource(config_module)
    fields = config_module.leaves(config_module.default_config())
    comments, own_line = _comments_by_line(source)
    found = {}
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Attribute):
            continue
        path = ast.unparse(node.targets[0]).removeprefix("config.")
        if path in fields:
            found[path] = comments.get(node.end_lineno) or _above(node.lineno, comments, own_line)
    return found


def _comments_by_line(source: str) -> tuple[dict[int, str], set[int]]:
    """Returns all comments by line number, and the lines that hold nothing else."""
    comments, own_line = {}, set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            comments[token.start[0]] = token.string.lstrip("# ")
            if token.line.lstrip().startswith("#"):
                own_line.add(token.start[0])
    return comments, own_line


def _above(line: int, comments: dict[int, str], own_line: set[int]) -> str:
    lines = []
    while (line := line - 1) in own_line:
        lines.insert(0, comments[line])
    return " ".join(lines)


def _typed(value: object) -> str:
    """Returns a value the way one would type it: 0.4,0.4,0.2,0.1 for a tuple."""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return value if isinstance(value, str) else show(value)


def _entry(field: str, comment: str, width: int) -> list[str]:
    column = 46
    texts = textwrap.wrap(comment, width - column) or [""]
    if len(field) > column - 2:
        return [field, *(" " * column + text for text in texts)]
    return [field.ljust(column) + texts[0], *(" " * column + text for text in texts[1:])]
