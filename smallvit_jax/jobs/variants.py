"""Variants to compare, named by parts joined with "+", like "ssl+conv"."""

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
    """What a part changes: fields by dotted path, to a value or by a function of the old value."""

    about: str
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    family: str | None = None  # another model, with its own width, depth and so on
    pretrains: bool = False


def _one_fewer(depth: int | None) -> int | None:
    """One block fewer, as the conv stem costs about as much; None keeps the family's default."""
    return None if depth is None else max(depth - 1, 1)


# No class token: needed for structured initialization, and the baseline for it.
_MEAN = {"model.pool": "mean", "model.pos_embed": "sincos"}

PARTS = {
    "scratch": VariantPart("the config's model, trained with labels only"),
    "ssl": VariantPart("pre-trained without labels on all images, then fine-tuned", pretrains=True),
    "swin": VariantPart("Swin at its default size", family="swin"),
    "cait": VariantPart("CaiT at its default size", family="cait"),
    "resnet18": VariantPart("ResNet-18, with a stem chosen by image size", family="resnet18"),
    "resnet20": VariantPart("ResNet with 20 layers", {"model.depth": 20}, family="resnet56"),
    "resnet56": VariantPart("ResNet with 56 layers", family="resnet56"),
    "efficientnet_b0": VariantPart(
        "EfficientNet-B0, with a stem chosen by image size", family="efficientnet_b0"
    ),
    "mean": VariantPart("mean pooling without a class token, fixed sincos positions", _MEAN),
    "impulse3": VariantPart(
        "as mean, with attention initialized to 3 x 3 shifts", _MEAN | {"model.init": "impulse3"}
    ),
    "impulse5": VariantPart(
        "as mean, with attention initialized to 5 x 5 shifts", _MEAN | {"model.init": "impulse5"}
    ),
    "mimetic": VariantPart(
        "as mean, with mimetic initialization", _MEAN | {"model.init": "mimetic"}
    ),
    "conv": VariantPart(
        "convolutional stem, one block fewer in a ViT",
        {"model.stem": "conv", "model.depth": _one_fewer},
    ),
    "spt": VariantPart("shifted patch tokenization", {"model.stem": "spt"}),
    "lsa": VariantPart("locality self-attention", {"model.lsa": True}),
    "drloc": VariantPart("relative localization loss", {"finetune.drloc.weight": 0.1}),
}


@dataclasses.dataclass(frozen=True)
class Variant:
    """A combination of parts and of fields set directly.

    `name` has the parts in the table's order, so that "conv+ssl" becomes "ssl+conv".
    """

    name: str
    parts: tuple[VariantPart, ...]
    own: Mapping[str, str]

    @property
    def pretrains(self) -> bool:
        """Whether it starts with pre-training."""
        return any(part.pretrains for part in self.parts)

    @property
    def about(self) -> str:
        """A description for people."""
        own = [f"{path} = {value}" for path, value in self.own.items()]
        return "; ".join([part.about for part in self.parts] + own)

    def config(self, base: ConfigDict, seed: int) -> ConfigDict:
        """Returns the full config of one training."""
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
    """Parses a comma-separated list of variants, such as "scratch,ssl+conv".

    Each part of a name is one of `PARTS`, or FIELD=VALUE of the model, of pre-training or of
    fine-tuning, as in "ssl+model.width=128". Raises `UserError` for unknown or contradictory parts.
    """
    variants = [_read(name.strip()) for name in text.split(",") if name.strip()]
    names = [variant.name for variant in variants]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f'the list of variants has "{name}" more than once; keep one of them')
    if not variants:
        raise UserError(f"the list of variants is empty; name at least one of {', '.join(PARTS)}")
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
        raise UserError(
            f'the variant "{text}" has a "/", but its name is also a folder name; remove the "/"'
        )
    return Variant(full_name, parts, own)


def _check_own(text: str, path: str, pretrains: bool) -> None:
    known = [name for name in FIELD_AT if name.startswith(_OWN)]
    if path not in known:
        raise UserError(
            f'the variant "{text}" sets "{path}"{did_you_mean(path, known)}; only fields of '
            f"{', '.join(group.strip('.') for group in _OWN)} can be set"
        )
    if path == "finetune.init_from":
        raise UserError(
            f'the variant "{text}" sets finetune.init_from, but variants start from their own '
            'pre-training; leave it out and add the part "ssl"'
        )
    if path.startswith("pretrain.") and not pretrains:
        raise UserError(
            f'the variant "{text}" sets {path}, but does not pre-train; add the part "ssl" or '
            "leave the field out"
        )


_OWN = ("model.", "pretrain.", "finetune.")


def _check_parts(text: str, names: list[str]) -> None:
    """Raises `UserError` if two parts contradict each other."""
    if "scratch" in names and "ssl" in names:
        raise UserError(f'the variant "{text}" cannot be both "scratch" and "ssl"; keep one')
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
                    f"{before} and {value}; keep one of them"
                )


def _reset_model(config: ConfigDict, family: str) -> None:
    """Resets the model's options to the family's; the old ones were for another family."""
    image_size = config.model.image_size
    config.model.update(default_config().model)
    config.model.name, config.model.image_size = family, image_size
