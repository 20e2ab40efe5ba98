"""Variants to compare, by name: parts joined by "+", like "ssl+conv"."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from smallvit_jax.config import default_config
from smallvit_jax.config.tree import FIELD_AT, get_value, set_value
from smallvit_jax.config.values import set_from_text
from smallvit_jax.errors import UserError, did_you_mean


@dataclasses.dataclass(frozen=True)
class VariantPart:
    """What a name changes: fields by dotted path, to a value or by a function of the old value."""

    about: str
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    family: str | None = None  # another model, with its own width, depth and so on
    pretrains: bool = False


def _one_fewer(depth: int | None) -> int | None:
    """The conv stem costs about as much as a block; None is left to the family."""
    return None if depth is None else max(depth - 1, 1)


# No class token: what structured initialization needs, and the control for it.
_MEAN = {"model.pool": "mean", "model.pos_embed": "sincos"}

PARTS = {
    "scratch": VariantPart("the config's model, trained with labels only"),
    "ssl": VariantPart("pre-trained without labels on all images, then fine-tuned", pretrains=True),
    "swin": VariantPart("a Swin of its own size", family="swin"),
    "cait": VariantPart("a CaiT of its own size", family="cait"),
    "resnet18": VariantPart("a ResNet-18, stem by image size", family="resnet18"),
    "resnet20": VariantPart("a ResNet of 20 layers", {"model.depth": 20}, family="resnet56"),
    "resnet56": VariantPart("a ResNet of 56 layers", family="resnet56"),
    "efficientnet_b0": VariantPart(
        "an EfficientNet-B0, stem by image size", family="efficientnet_b0"
    ),
    "mean": VariantPart("mean pooling without a class token, fixed sincos positions", _MEAN),
    "impulse3": VariantPart(
        "mean, with attention starting as 3 x 3 shifts", _MEAN | {"model.init": "impulse3"}
    ),
    "impulse5": VariantPart(
        "mean, with attention starting as 5 x 5 shifts", _MEAN | {"model.init": "impulse5"}
    ),
    "mimetic": VariantPart("mean, with mimetic initialization", _MEAN | {"model.init": "mimetic"}),
    "conv": VariantPart(
        "convolutional stem; a ViT has one block fewer",
        {"model.stem": "conv", "model.depth": _one_fewer},
    ),
    "spt": VariantPart("shifted patch tokenization", {"model.stem": "spt"}),
    "lsa": VariantPart("locality self-attention", {"model.lsa": True}),
    "drloc": VariantPart("relative localization loss", {"finetune.drloc.weight": 0.1}),
}


@dataclasses.dataclass(frozen=True)
class Variant:
    """A combination of parts, and of fields that are set directly.

    `name` has the parts in the table's order, so that "conv+ssl" is "ssl+conv".
    """

    name: str
    parts: tuple[VariantPart, ...]
    own: Mapping[str, str]

    @property
    def pretrains(self) -> bool:
        """Whether it begins with pre-training."""
        return any(part.pretrains for part in self.parts)

    @property
    def about(self) -> str:
        """What it is, for people."""
        own = [f"{path} = {value}" for path, value in self.own.items()]
        return "; ".join([part.about for part in self.parts] + own)

    def config(self, base: ConfigDict, seed: int) -> ConfigDict:
        """The whole config of one training."""
        config = base.copy_and_resolve_references()
        config.seed = seed
        for part in self.parts:
            if part.family:
                _reset_model(config, part.family)
        fields = [field for part in self.parts for field in part.fields.items()]
        for path, value in sorted(fields, key=lambda field: callable(field[1])):
            set_value(config, path, value(get_value(config, path)) if callable(value) else value)
        for path, text in self.own.items():
            set_from_text(config, path, text)
        return config


def read_variants(text: str) -> list[Variant]:
    """The variants of a list with commas between, such as "scratch,ssl+conv".

    A piece of a name is one of `PARTS`, or FIELD=VALUE of the model, of pre-training or of
    fine-tuning, as in "ssl+model.width=128". Raises `UserError` for unknown or contradictory parts.
    """
    variants = [_read(name.strip()) for name in text.split(",") if name.strip()]
    names = [variant.name for variant in variants]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f'the list of variants has "{name}" more than once; leave one of them')
    if not variants:
        raise UserError(f"the list of variants is empty; name some of {', '.join(PARTS)}")
    return variants


def _read(text: str) -> Variant:
    pieces = [piece.strip() for piece in text.split("+")]
    own = {
        path.strip(): value.strip()
        for path, _, value in (piece.partition("=") for piece in pieces if "=" in piece)
    }
    names = [piece for piece in pieces if "=" not in piece]
    for name in names:
        if name not in PARTS:
            raise UserError(
                f'the variant "{text}" has the unknown part "{name}"{did_you_mean(name, PARTS)}; '
                f"parts are {', '.join(PARTS)}, and FIELD=VALUE"
            )
    for path in own:
        _check_own(text, path, pretrains=any(PARTS[name].pretrains for name in names))
    ordered = sorted(set(names), key=list(PARTS).index)
    parts = tuple(PARTS[name] for name in ordered)
    _check_parts(text, ordered)
    full_name = "+".join(ordered + [f"{path}={value}" for path, value in sorted(own.items())])
    if "/" in full_name:
        raise UserError(f'the variant "{text}" has a "/", but its name is that of a folder, too')
    return Variant(full_name, parts, own)


def _check_own(text: str, path: str, pretrains: bool) -> None:
    known = [name for name in FIELD_AT if name.startswith(_OWN)]
    if path not in known:
        raise UserError(
            f'the variant "{text}" sets "{path}"{did_you_mean(path, known)}; it may set fields of '
            f"{', '.join(group.strip('.') for group in _OWN)}"
        )
    if path == "finetune.init_from":
        raise UserError(
            f'the variant "{text}" sets finetune.init_from, but variants begin with what they '
            "pre-train themselves"
        )
    if path.startswith("pretrain.") and not pretrains:
        raise UserError(
            f'the variant "{text}" sets {path}, but does not pre-train; add the part "ssl" or '
            "leave the field out"
        )


_OWN = ("model.", "pretrain.", "finetune.")


def _check_parts(text: str, names: list[str]) -> None:
    """Raises where two parts want different things of one field."""
    if "scratch" in names and "ssl" in names:
        raise UserError(f'the variant "{text}" cannot be both "scratch" and "ssl"; leave one')
    wanted: dict[str, tuple[str, Any]] = {}
    for name in names:
        part = PARTS[name]
        fields = {path: value for path, value in part.fields.items() if not callable(value)}
        if part.family:
            fields["model.name"] = part.family
        for path, value in fields.items():
            other, before = wanted.setdefault(path, (name, value))
            if before != value:
                raise UserError(
                    f'the variant "{text}" has "{other}" and "{name}", which set {path} to '
                    f"{before} and {value}; leave one of them"
                )


def _reset_model(config: ConfigDict, family: str) -> None:
    """Gives the model the family's own options; what was set was meant for another one."""
    image_size = config.model.image_size
    config.model.update(default_config().model)
    config.model.name, config.model.image_size = family, image_size
