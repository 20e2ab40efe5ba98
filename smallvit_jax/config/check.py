"""The check of a config: one sentence on the first thing that is wrong."""

import ml_collections

from smallvit_jax.config import CONVNETS, default_config, leaves
from smallvit_jax.config.rules import Rule, rules
from smallvit_jax.errors import UserError, did_you_mean

# Lists as long as their user likes; the others have the default's length.
ANY_LENGTH = (
    *("evaluate.knn_sweep_neighbors", "evaluate.knn_sweep_temperatures"),
    *("evaluate.probe_learning_rates", "data_efficiency.fractions", "data_efficiency.seeds"),
    *("compare.seeds", "compare.targets"),
)

TYPE_NAMES = {
    int: "a whole number",
    float: "a finite number",
    bool: "true or false",
    str: "text",
    tuple: "a list of numbers like 0.5,1.0",
}


def validate(config: ml_collections.ConfigDict) -> None:
    """Checks every field's type and value, and fields that contradict each other.

    What depends on the dataset, the model or a checkpoint is checked by the jobs. Raises
    UserError for the first problem.
    """
    check_fields(config)
    defaults, rule_of = default_config(), rules()
    defaults_by_path = leaves(defaults)
    for path, value in leaves(config).items():
        _check_type(path, value, defaults_by_path[path], field_type(path, defaults))
        _check_value(path, value, rule_of.get(path))
    _check_together(config)


def check_fields(config: ml_collections.ConfigDict) -> None:
    """Raises UserError unless the config has exactly the fields of `default_config()`."""
    values, declared = leaves(config), leaves(default_config())
    for path in values:
        if path not in declared:
            raise UserError(f'the config has no field "{path}"{did_you_mean(path, declared)}')
    for path in declared:
        if path not in values:
            raise UserError(
                f'the config lacks the field "{path}"; start it from default_config() of '
                "smallvit_jax.config"
            )


def field_type(path: str, defaults: ml_collections.ConfigDict) -> type:
    """Returns the declared type of a field; fields whose default is None have one too."""
    *groups, name = path.split(".")
    for group in groups:
        defaults = defaults[group]
    return defaults.get_type(name)


def _check_type(path: str, value: object, default: object, declared: type) -> None:
    if value is None and default is None:
        return
    if type(value) is not declared:
        raise UserError(f"{path} is {show(value)}, but must be {TYPE_NAMES[declared]}")
    free = default is None or path in ANY_LENGTH
    if declared is tuple and not free and len(value) != len(default):
        raise UserError(
            f"{path} is {show(value)}, but must have {len(default)} numbers like {show(default)}"
        )


def _check_value(path: str, value: object, rule: Rule | None) -> None:
    if value is None or rule is None or rule.accepts(value):
        return
    hint = did_you_mean(value, rule.names) if rule.names else ""
    raise UserError(f"{path} is {show(value)}, but must be {rule.allowed}{hint}")


_PRETRAINS_AND_TUNES = ("recipe", "data_efficiency", "compare")
_TRAINS_OR_TESTS = ("pretrain", "finetune", "evaluate", "sweep", *_PRETRAINS_AND_TUNES)
# What a job cannot do without: field, what it is, an example.
_CHECKPOINT = "stage folder or checkpoint"
_NEEDED = {
    "evaluate": [("evaluate.checkpoint", f"the {_CHECKPOINT} to evaluate", "runs/x/finetune")],
    "attention": [("attention.checkpoint", f"the {_CHECKPOINT} to look into", "runs/x/finetune")],
    "convert": [
        ("convert.source", "a weights file of the reference or a stage folder", "best.pth")
    ],
    **{
        job: [
            ("predict.checkpoint", f"the {_CHECKPOINT} to use", "runs/x/finetune"),
            ("predict.input", "an image file or a folder of them", "photos"),
        ]
        for job in ("predict", "embed")
    },
}


def _check_together(config: ml_collections.ConfigDict) -> None:
    values = leaves(config)
    for field, what, example in _NEEDED.get(config.job, ()):
        if not values[field]:
            raise UserError(
                f'the job "{config.job}" needs {field}: {what}, as in --config.{field}={example}'
            )
    _check_root(config)
    if config.job in (*_PRETRAINS_AND_TUNES, "sweep") and config.finetune.init_from:
        raise UserError(
            f'finetune.init_from is "{config.finetune.init_from}", but the job "{config.job}" '
            'begins anew or with what it pre-trains itself; use the job "finetune" or leave the '
            "field empty"
        )
    if config.job == "attention" and config.attention.boxes and not config.attention.input:
        raise UserError(
            f'attention.boxes is "{config.attention.boxes}", but boxes are for files, and there is '
            "no attention.input; name the image file or folder that they are for"
        )
    if config.job == "data_efficiency" and config.dataset.label_fraction < 1:
        raise UserError(
            f"dataset.label_fraction is {config.dataset.label_fraction:g}, but the job "
            '"data_efficiency" chooses the labels itself, by data_efficiency.fractions; set it to 1'
        )
    pretrains = config.job in ("pretrain", *_PRETRAINS_AND_TUNES)
    if pretrains and config.runtime.accumulate > 1 and config.pretrain.head.batch_norm:
        raise UserError(
            f"runtime.accumulate is {config.runtime.accumulate}, but pretrain.head.batch_norm "
            "takes its statistics over the whole batch; set accumulate to 1 or batch_norm to false"
        )
    trains = pretrains or config.job in ("finetune", "sweep")
    if trains and config.runtime.accumulate > 1 and _has_batch_norm(config):
        convnet = config.model.name in CONVNETS
        raise UserError(
            f"runtime.accumulate is {config.runtime.accumulate}, but the batch norm of the "
            f"{config.model.name if convnet else 'stem'} takes its statistics over the whole "
            f"batch; set accumulate to 1{'' if convnet else ' or model.stem_norm to layer'}"
        )
    augment = config.finetune.augment
    if augment.mix > 0 and augment.mixup_alpha == 0 and augment.cutmix_alpha == 0:
        raise UserError(
            f"finetune.augment.mix is {augment.mix}, but mixup_alpha and cutmix_alpha are both 0; "
            "set mix to 0 or one of the two above 0"
        )
    drloc = config.finetune.drloc
    if drloc.weight > 0 and drloc.normalize and drloc.loss != "l1":
        raise UserError(
            f'finetune.drloc.normalize is for l1, but finetune.drloc.loss is "{drloc.loss}", whose '
            "classes are whole tokens; set one of the two otherwise"
        )


def _has_batch_norm(config: ml_collections.ConfigDict) -> bool:
    """Whether the model takes statistics over the batch."""
    model = config.model
    return model.name in CONVNETS or (model.stem == "conv" and model.stem_norm != "layer")


def _check_root(config: ml_collections.ConfigDict) -> None:
    from smallvit_jax.data.datasets import FOLDER  # brings NumPy, which --help does without

    dataset = config.dataset
    if dataset.root and dataset.name != FOLDER:
        raise UserError(
            f'dataset.root is "{dataset.root}", but dataset.name is "{dataset.name}", which is not '
            f"read from there; set --config.dataset.name={FOLDER}, or leave the root empty"
        )
    if dataset.name == FOLDER and not dataset.root and config.job in _TRAINS_OR_TESTS:
        raise UserError(
            f'dataset.name is "{FOLDER}", which needs dataset.root: the folder of your images, as '
            "in --config.dataset.root=photos"
        )


def show(value: object) -> str:
    """Returns a value as the command line takes it."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)
