"""The depth of each array in a model, for learning rates that fall with it."""

import re
from collections.abc import Iterable

# "blocks.3.…", Swin's "layers.1.blocks.3.…" and CaiT's "blocks_token_only.0.…".
_BLOCK = re.compile(r"(?:layers\.(\d+)\.)?blocks(_token_only)?\.(\d+)\.")
_DOWNSAMPLE = re.compile(r"layers\.(\d+)\.downsample\.")
_LAST = ("norm.", "last.", "head.")


def layer_numbers(names: Iterable[str]) -> dict[str, int]:
    """Numbers a model's arrays by the layer they belong to, from 0.

    0 is everything before the first block (patches or stem, positions, class token); then each
    block counts one, a Swin's downsampling as part of the block before it; the last number is
    everything after the last block (final norm and classifier).
    """
    names = list(names)
    blocks: dict[str, tuple[int, bool, int]] = {}
    downsamples: dict[str, int] = {}
    first = []
    for name in names:
        if match := _BLOCK.match(name):
            stage, token_only, index = match.groups()
            blocks[name] = (int(stage or 0), bool(token_only), int(index))
        elif match := _DOWNSAMPLE.match(name):
            downsamples[name] = int(match[1])
        elif not name.startswith(_LAST):
            first.append(name)
    order = {place: i for i, place in enumerate(sorted(set(blocks.values())), 1)}
    numbers = dict.fromkeys(first, 0) | {name: order[place] for name, place in blocks.items()}
    for name, stage in downsamples.items():
        numbers[name] = max(n for place, n in order.items() if place[0] == stage)
    return {name: numbers.get(name, len(order) + 1) for name in names}
