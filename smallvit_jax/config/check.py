"""Validates a config and reports the first problem in one sentence."""

import ml_collections

from smallvit_jax.config.choices import CONVNETS
from smallvit_jax.config.field import Field
from smallvit_jax.config.jobs import JOBS, Job
from smallvit_jax.config.tree import FIELD_AT, flatten
from smallvit_jax.config.values import TYPE_NAMES, as_text
from smallvit_jax.data.datasets import FOLDER
from smallvit_jax.errors import UserError, did_you_mean
from smallvit_jax.process.remote import is_remote

_MAY_BE_REMOTE = {
    *("pretrain.init_from", "finetune.init_from", "runtime.compilation_cache"),
    *("evaluate.checkpoint", "attention.checkpoint", "attention.beside", "predict.checkpoint"),
}


def validate(config: ml_collections.ConfigDict) -> None:
    """Checks every field's type and value, then fields that contradict each other.

    Jobs check what depends on the dataset, the model or a checkpoint. Raises UserError for the
    first problem.
    """
    check_fields(config)
    for path, value in flatten(config).items():
        _check_type(path, value, FIELD_AT[path])
        _check_value(path, value, FIELD_AT[path])
    job = JOBS[config.job]
    for check in (
        _check_addresses,
        _check_required,
        _check_root,
        _check_start,
        _check_accumulate,
        _check_options,
    ):
        check(config, job)


def check_fields(config: ml_collections.ConfigDict) -> None:
    """Raises UserError unless the config has exactly the fields of `default_config()`."""
    values = flatten(config)
    for path in values:
        if path not in FIELD_AT:
            raise UserError(f'the config has no field "{path}"{did_you_mean(path, FIELD_AT)}')
    for path in FIELD_AT:
        if path not in values:
            raise UserError(
                f'the config lacks the field "{path}"; start it from default_config() of '
                "smallvit_jax.config"
            )


def _check_type(path: str, value: object, field: Field) -> None:
    if value is None and field.optional:
        return
    if type(value) is not field.type:
        raise UserError(f"{path} is {as_text(value)}, but must be {TYPE_NAMES[field.type]}")
    if isinstance(value, tuple) and field.length is not None and len(value) != field.length:
        raise UserError(
            f"{path} is {as_text(value)}, but must have {field.length} numbers like "
            f"{as_text(field.default)}"
        )


def _check_value(path: str, value: object, field: Field) -> None:
    rule = field.rule
    if value is None or rule is None or rule.accepts(value):
        return
    hint = did_you_mean(value, rule.choices) if rule.choices else ""
    raise UserError(f"{path} is {as_text(value)}, but must be {rule.allowed}{hint}")


def _check_addresses(config: ml_collections.ConfigDict, job: Job) -> None:
    for path, value in flatten(config).items():
        if isinstance(value, str) and is_remote(value) and path not in _MAY_BE_REMOTE:
            raise UserError(
                f'{path} is "{value}", but must be on this machine; copy it here first, for '
                "example with: gcloud storage cp -r"
            )


def _check_required(config: ml_collections.ConfigDict, job: Job) -> None:
    values = flatten(config)
    for required in job.required:
        if not values[required.path]:
            raise UserError(
                f'the job "{job.name}" needs {required.path}: {required.what}, as in '
                f"--config.{required.path}={required.example}"
            )


def _check_root(config: ml_collections.ConfigDict, job: Job) -> None:
    dataset = config.dataset
    if dataset.root and dataset.name != FOLDER:
        raise UserError(
            f'dataset.root is "{dataset.root}", but dataset.name is "{dataset.name}", which does '
            f"not use it; set --config.dataset.name={FOLDER}, or leave dataset.root empty"
        )
    reads = job.reads_dataset or (job.name == "attention" and not config.attention.input)
    if dataset.name == FOLDER and not dataset.root and reads:
        raise UserError(
            f'dataset.name is "{FOLDER}", which needs dataset.root: the folder with your images, '
            "as in --config.dataset.root=photos"
        )


def _check_start(config: ml_collections.ConfigDict, job: Job) -> None:
    if job.starts_fresh and config.finetune.init_from:
        raise UserError(
            f'finetune.init_from is "{config.finetune.init_from}", but the job "{job.name}" '
            'starts from scratch or from its own pre-training; use the job "finetune" or leave the '
            "field empty"
        )


def _check_accumulate(config: ml_collections.ConfigDict, job: Job) -> None:
    """Batch norm and LeJEPA's statistic need the whole batch at once."""
    parts, objective = config.runtime.accumulate, config.pretrain.objective
    if parts == 1:
        return
    if job.pretrains and objective == "lejepa":
        raise UserError(
            f"runtime.accumulate is {parts}, but pretrain.objective=lejepa needs the whole batch "
            "at once, for its statistic and its batch norm; set accumulate to 1"
        )
    if job.pretrains and objective == "dino" and config.pretrain.head.batch_norm:
        raise UserError(
            f"runtime.accumulate is {parts}, but pretrain.head.batch_norm needs statistics over "
            "the whole batch; set accumulate to 1 or batch_norm to false"
        )
    model = config.model
    convnet = model.name in CONVNETS
    normed = convnet or (model.stem == "conv" and model.stem_norm != "layer")
    if (job.pretrains or job.finetunes) and normed:
        raise UserError(
            f"runtime.accumulate is {parts}, but the batch norm of the "
            f"{model.name if convnet else 'stem'} needs statistics over the whole batch; set "
            f"accumulate to 1{'' if convnet else ' or model.stem_norm to layer'}"
        )


def _check_options(config: ml_collections.ConfigDict, job: Job) -> None:
    if job.name == "attention" and config.attention.boxes and not config.attention.input:
        raise UserError(
            f'attention.boxes is "{config.attention.boxes}", but attention.input is empty; set it '
            "to the image file or folder that the boxes belong to"
        )
    if job.name == "data_efficiency" and config.dataset.label_fraction < 1:
        raise UserError(
            f"dataset.label_fraction is {config.dataset.label_fraction:g}, but the job "
            '"data_efficiency" uses data_efficiency.fractions instead; set it to 1'
        )
    augment = config.finetune.augment
    if augment.mix > 0 and augment.mixup_alpha == 0 and augment.cutmix_alpha == 0:
        raise UserError(
            f"finetune.augment.mix is {augment.mix}, but mixup_alpha and cutmix_alpha are both 0; "
            "set mix to 0 or one of the alphas above 0"
        )
    drloc = config.finetune.drloc
    if drloc.weight > 0 and drloc.normalize and drloc.loss != "l1":
        raise UserError(
            f"finetune.drloc.normalize needs the loss l1, but finetune.drloc.loss is "
            f'"{drloc.loss}", whose classes are whole tokens; change one of the two'
        )
