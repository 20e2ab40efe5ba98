"""What each field of the config may hold besides its type."""

import dataclasses
import math
from collections.abc import Callable

from smallvit_jax.config import MODELS
from smallvit_jax.config.presets import dataset_names

JOBS = (
    *("pretrain", "finetune", "recipe", "evaluate", "convert"),
    *("attention", "predict", "embed", "report", "data_efficiency", "compare", "sweep"),
)


@dataclasses.dataclass(frozen=True)
class Rule:
    """`allowed` completes "must be ..."; `names` are the choices of a field that names one."""

    allowed: str
    accepts: Callable[[object], bool]
    names: tuple[str, ...] = ()


def rules() -> dict[str, Rule]:
    """Returns the rule of each field that its type alone does not settle, by dotted path."""
    return {"dataset.name": _one_of(*dataset_names())} | _RULES


def _one_of(*names: str) -> Rule:
    return Rule("one of " + ", ".join(names), lambda value: value in names, names)


def _at_least(low: float) -> Rule:
    return Rule(f"at least {low}", lambda value: low <= value < math.inf)


_POSITIVE = Rule("a finite number above 0", lambda value: 0 < value < math.inf)
_NOT_NEGATIVE = Rule("a finite number, at least 0", lambda value: 0 <= value < math.inf)
_PROBABILITY = Rule("between 0 and 1", lambda value: 0 <= value <= 1)
_BELOW_ONE = Rule("at least 0 and below 1", lambda value: 0 <= value < 1)
_PROBABILITIES = Rule(
    "numbers between 0 and 1", lambda value: all(_is_number(p) and 0 <= p <= 1 for p in value)
)
_AREA_RANGE = Rule("low,high with 0 < low <= high <= 1", lambda value: _is_range(value, 1.0))
_POSITIVE_RANGE = Rule("low,high with 0 < low <= high", lambda value: _is_range(value, math.inf))
_JITTER = Rule(
    "brightness,contrast,saturation,hue, none below 0 and the hue at most 0.5",
    lambda value: all(_is_number(v) and 0 <= v < math.inf for v in value) and value[3] <= 0.5,
)
_OPTIMIZERS = _one_of("adamw", "sgd", "lars")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_range(value: tuple, high: float) -> bool:
    return (
        len(value) == 2
        and all(_is_number(v) and math.isfinite(v) for v in value)
        and 0 < value[0] <= value[1] <= high
    )


def _is_positive(value: object) -> bool:
    return _is_number(value) and 0 < value < math.inf


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 1


def _list_of(allowed: str, accepts: Callable[[object], bool]) -> Rule:
    return Rule(
        f"one or more {allowed}", lambda value: bool(value) and all(accepts(v) for v in value)
    )


_SEEDS = Rule(
    "one or more different whole numbers from 0 to 4294967295",
    lambda value: (
        bool(value)
        and all(type(v) is int and 0 <= v < 2**32 for v in value)
        and len(set(value)) == len(value)
    ),
)


_RULES = {
    "job": _one_of(*JOBS),
    "seed": Rule("between 0 and 4294967295", lambda value: 0 <= value < 2**32),
    "dataset.train_fraction": Rule("above 0 and at most 1", lambda value: 0 < value <= 1),
    "dataset.test_fraction": _BELOW_ONE,
    "dataset.unreadable_fraction": _PROBABILITY,
    "dataset.labels_per_class": _at_least(0),
    "dataset.label_fraction": Rule("above 0 and at most 1", lambda value: 0 < value <= 1),
    "dataset.validation_fraction": _BELOW_ONE,
    "model.name": _one_of(*MODELS),
    "model.image_size": _at_least(1),
    "model.patch_size": _at_least(1),
    "model.width": _at_least(1),
    "model.depth": _at_least(1),
    "model.heads": _at_least(1),
    "model.mlp_ratio": _POSITIVE,
    "model.drop_path": _BELOW_ONE,
    "model.lsa_mask": _one_of("masked", "released"),
    "model.stem": _one_of("patchify", "conv", "spt", "cifar", "imagenet"),
    "model.stem_norm": _one_of("batch", "layer"),
    "model.stem_channels": _list_of("whole numbers, each at least 1", _is_count),
    "model.stem_strides": _list_of("ones and twos", lambda value: value in (1, 2)),
    "model.spt_directions": Rule("4 or 8", lambda value: value in (4, 8)),
    "model.shortcut": _one_of("pad", "projection"),
    "model.init": _one_of(
        *("reference", "fan_in", "impulse3", "impulse5", "mimetic", "mimetic_released")
    ),
    "model.pool": _one_of("cls", "mean"),
    "model.pos_embed": _one_of("learned", "sincos"),
    "model.position_resize": _one_of("slice", "interpolate"),
    "model.window_padding": _one_of("unmasked", "masked"),
    "pretrain.epochs": _at_least(1),
    "pretrain.batch_size": _at_least(1),
    "pretrain.student_temperature": _POSITIVE,
    "pretrain.freeze_last_layer_epochs": _at_least(0),
    "pretrain.knn_every": _at_least(0),
    "pretrain.views.local_crops": _at_least(0),
    "pretrain.views.global_scale": _AREA_RANGE,
    "pretrain.views.local_scale": _AREA_RANGE,
    "pretrain.views.flip": _PROBABILITY,
    "pretrain.views.jitter": _PROBABILITY,
    "pretrain.views.jitter_strength": _JITTER,
    "pretrain.views.grayscale": _PROBABILITY,
    "pretrain.views.blur": _PROBABILITIES,
    "pretrain.views.solarize": _PROBABILITY,
    "pretrain.head.out_dim": _at_least(2),
    "pretrain.head.hidden_dim": _at_least(1),
    "pretrain.head.bottleneck_dim": _at_least(1),
    "pretrain.teacher.momentum": _PROBABILITY,
    "pretrain.teacher.temperature": _POSITIVE,
    "pretrain.teacher.warmup_temperature": _POSITIVE,
    "pretrain.teacher.warmup_temperature_epochs": _at_least(0),
    "pretrain.teacher.center_momentum": _PROBABILITY,
    "pretrain.optimizer.name": _OPTIMIZERS,
    "pretrain.optimizer.base_lr": _POSITIVE,
    "pretrain.optimizer.min_lr": _NOT_NEGATIVE,
    "pretrain.optimizer.warmup_epochs": _at_least(0),
    "pretrain.optimizer.weight_decay": _NOT_NEGATIVE,
    "pretrain.optimizer.weight_decay_end": _NOT_NEGATIVE,
    "pretrain.optimizer.clip": _NOT_NEGATIVE,
    "finetune.epochs": _at_least(1),
    "finetune.passes_per_epoch": _at_least(1),
    "finetune.batch_size": _at_least(1),
    "finetune.evaluate_every": _at_least(1),
    "finetune.label_smoothing": _BELOW_ONE,
    "finetune.augment.flip": _PROBABILITY,
    "finetune.augment.crop_padding": _at_least(0),
    "finetune.augment.policy": _one_of(
        *("auto", "none", "cifar10", "svhn", "imagenet", "randaugment")
    ),
    "finetune.augment.erase": _PROBABILITY,
    "finetune.augment.erase_area": _AREA_RANGE,
    "finetune.augment.erase_aspect": _POSITIVE_RANGE,
    "finetune.augment.erase_fill": _one_of("reference", "mean"),
    "finetune.augment.mix": _PROBABILITY,
    "finetune.augment.mixup_alpha": _NOT_NEGATIVE,
    "finetune.augment.cutmix_alpha": _NOT_NEGATIVE,
    "finetune.drloc.weight": _NOT_NEGATIVE,
    "finetune.drloc.loss": _one_of("l1", "ce", "cbr"),
    "finetune.drloc.pairs": _at_least(1),
    "finetune.optimizer.name": _OPTIMIZERS,
    "finetune.optimizer.lr": _POSITIVE,
    "finetune.optimizer.min_lr": _NOT_NEGATIVE,
    "finetune.optimizer.warmup_epochs": _at_least(0),
    "finetune.optimizer.weight_decay": _NOT_NEGATIVE,
    "finetune.optimizer.clip": _NOT_NEGATIVE,
    "finetune.optimizer.clip_global": _NOT_NEGATIVE,
    "finetune.optimizer.eps": _POSITIVE,
    "evaluate.batch_size": _at_least(1),
    "evaluate.knn_neighbors": _at_least(1),
    "evaluate.knn_temperature": _POSITIVE,
    "evaluate.knn_sweep_neighbors": _list_of("whole numbers, each at least 1", _is_count),
    "evaluate.knn_sweep_temperatures": _list_of("numbers above 0", _is_positive),
    "evaluate.probe_blocks": _at_least(0),
    "evaluate.probe_epochs": _at_least(1),
    "evaluate.probe_learning_rates": _list_of("numbers above 0", _is_positive),
    "evaluate.corruptions.kinds": Rule("0, 15 or 19", lambda value: value in (0, 15, 19)),
    "evaluate.corruptions.images": _at_least(0),
    "evaluate.corruptions.source": _one_of("auto", "official", "regenerated"),
    "evaluate.corruptions.processes": _at_least(0),
    "attention.images": _at_least(1),
    "attention.enlarge": _at_least(1),
    "attention.mass": Rule("above 0 and at most 1", lambda value: 0 < value <= 1),
    "predict.batch_size": _at_least(1),
    "predict.top": _at_least(1),
    "predict.format": _one_of("csv", "json"),
    "convert.network": _one_of("teacher", "student"),
    "convert.format": _one_of("pth", "safetensors"),
    "data_efficiency.fractions": _list_of(
        "numbers above 0 and at most 1", lambda value: _is_positive(value) and value <= 1
    ),
    "data_efficiency.seeds": _SEEDS,
    "compare.seeds": _SEEDS,
    "compare.targets": _list_of(
        "accuracies above 0 and at most 100", lambda value: _is_positive(value) and value <= 100
    ),
    "sweep.settings": _at_least(1),
    "sweep.adamw_lr": _POSITIVE_RANGE,
    "sweep.adamw_weight_decay": _POSITIVE_RANGE,
    "sweep.sgd_lr": _POSITIVE_RANGE,
    "sweep.sgd_weight_decay": _POSITIVE_RANGE,
    "runtime.precision": _one_of("auto", "float32", "bfloat16"),
    "runtime.steps_per_dispatch": _at_least(1),
    "runtime.data_placement": _one_of("auto", "device", "host"),
    "runtime.checkpoint_every": _at_least(1),
    "runtime.distributed": _one_of("auto", "on", "off"),
    "runtime.accumulate": _at_least(1),
    "runtime.profile": _at_least(0),
}
