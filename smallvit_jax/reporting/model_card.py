"""The model card of exported weights: how to use them, how good they are, how they were trained."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from smallvit_jax.config.jobs import STAGES
from smallvit_jax.config.tree import flatten
from smallvit_jax.data.datasets import DATASETS
from smallvit_jax.errors import UserError
from smallvit_jax.reporting.runs import COMMAND
from smallvit_jax.reporting.templates import render_template
from smallvit_jax.workdir.ownership import CHECKPOINTS
from smallvit_jax.workdir.records import read_config, read_result

_FAMILIES = {"vit": "vision transformer (ViT)", "swin": "Swin transformer", "cait": "CaiT"}
_MOST_CLASSES = 200  # listed by name
# Settings that the card lists, by field in the stage's config group.
_SETTINGS = {
    "objective": "objective",
    "head_init": "start of the classifier",
    "layer_decay": "factor of the learning rate per block",
    "epochs": "epochs",
    "passes_per_epoch": "passes per epoch",
    "batch_size": "batch size",
    "optimizer.name": "optimizer",
    "optimizer.base_lr": "learning rate per 256 images",
    "optimizer.lr": "learning rate",
    "optimizer.weight_decay": "weight decay",
}


class Origin(NamedTuple):
    """How a model was trained; anything missing is empty.

    Has the result and config of its stage and of the pre-training before it, the result of the
    evaluation after it, and the command.
    """

    result: Mapping[str, Any]
    config: Mapping[str, Any]
    pretrain_result: Mapping[str, Any]
    pretrain_config: Mapping[str, Any]
    evaluation: Mapping[str, Any]
    command: str


def read_origin(checkpoint: Path, step: int) -> Origin:
    """Reads how a checkpoint was trained from the folders around it.

    Results of another step are left out, as they belong to other weights.
    """
    checkpoint = checkpoint.absolute()
    parts = (checkpoint, checkpoint.parent, checkpoint.parent.parent)
    stage = next((p for p in parts if (p / CHECKPOINTS).is_dir() and p.name != CHECKPOINTS), None)
    if stage is None:
        return Origin({}, {}, {}, {}, {}, "")
    config = _config(stage)
    before = config.get("finetune", {}).get("init_from", "")
    pretrained = (stage / before) if before else stage / "nowhere"
    if before and not pretrained.is_dir():
        pretrained = Path(before)  # as given on the command line
    result = _result(stage)
    sibling = stage.parent / "evaluate"
    evaluated = _config(sibling).get("evaluate", {}).get("checkpoint")
    evaluation = _result(sibling) if evaluated == f"../{stage.name}" else {}
    commands = [folder / COMMAND for folder in (stage, stage.parent)]
    return Origin(
        result=result if result.get("steps") == step else {},
        config=config,
        pretrain_result=_result(pretrained),
        pretrain_config=_config(pretrained),
        evaluation=evaluation if evaluation.get("checkpoint_step") == step else {},
        command=next((p.read_text("utf-8").strip() for p in commands if p.is_file()), ""),
    )


def _result(folder: Path) -> dict[str, Any]:
    try:
        return read_result(folder) or {}
    except UserError:
        return {}


def _config(folder: Path) -> dict[str, Any]:
    try:
        return read_config(folder) or {}
    except UserError:
        return {}


def write_card(
    meta: Mapping[str, Any], parameters: int, weights: str, keys: Sequence[str], origin: Origin
) -> str:
    """Returns the card as Markdown, with the front matter that model hubs read.

    `meta` is the checkpoint's, `parameters` their number, `weights` the name of the file that the
    card describes, `keys` its first weight names.
    """
    model = meta["model"]
    evaluated = origin.evaluation
    return render_template(
        "model_card.md",
        model=model,
        family=_FAMILIES.get(model["name"], model["name"]),
        dataset=Path(origin.config.get("dataset", {}).get("root", "")).name or meta["dataset"],
        classes=meta["class_names"] if model["num_classes"] else [],
        most_classes=_MOST_CLASSES,
        parameters=parameters,
        weights=weights,
        keys=keys,
        preprocessing=_preprocessing(meta["dataset"], model["image_size"]),
        mean=", ".join(f"{value:.4f}" for value in meta["mean"]),
        std=", ".join(f"{value:.4f}" for value in meta["std"]),
        plain=_is_plain(model),
        figures=_figures(origin),
        test_images=evaluated.get("test_images"),
        training=_training(meta, origin),
        converted_from=meta.get("converted_from"),
        command=origin.command,
    )


def _preprocessing(dataset: str, size: int) -> str:
    if dataset in DATASETS and DATASETS[dataset].squeezed:
        return f"scaled to {size} x {size} pixels without keeping the aspect ratio"
    return f"scaled to {size} pixels on the shorter side and center-cropped to {size} x {size}"


# Options as in the paper's PyTorch code, which cannot load models with other values.
_PLAIN = {"stem": "patchify", "pool": "cls", "pos_embed": "learned", "lsa": False}


def _is_plain(options: Mapping[str, Any]) -> bool:
    changed = [k for k, plain in _PLAIN.items() if options.get(k, plain) not in (plain, None)]
    return options["name"] in _FAMILIES and not changed


def _figures(origin: Origin) -> dict[str, float]:
    """Metrics in percent, by label."""
    evaluated, result = origin.evaluation, origin.result
    found = [
        ("test accuracy, last epoch", evaluated or result, "test_top1"),
        ("test accuracy, top 5", evaluated or result, "test_top5"),
        ("validation accuracy (held-out training images)", result, "validation_top1"),
        ("calibration error", evaluated, "ece"),
        ("kNN accuracy on its features", evaluated, "knn_top1"),
        ("linear probe accuracy on its features", evaluated.get("linear_probe", {}), "top1"),
        ("mean error on corrupted images", evaluated.get("corruptions", {}), "mean_error"),
        ("kNN accuracy on its features", result, "knn_after"),
    ]
    return {label: source[name] for label, source, name in found if source.get(name) is not None}


def _training(meta: Mapping[str, Any], origin: Origin) -> dict[str, str]:
    """How the model was trained, as text by label."""
    options = {k: v for k, v in meta["model"].items() if v is not None and k != "name"}
    rows = {"model": ", ".join(f"{k} {v}" for k, v in options.items())}
    stages = {"pretrain": origin.pretrain_config, "finetune": origin.config}
    if "pretrain" in origin.config:
        stages = {"pretrain": origin.config}
    for stage, config in stages.items():
        settings = flatten(config.get(stage, {}))
        for name, label in _SETTINGS.items():
            if name in settings:
                rows[f"{STAGES[stage]}: {label}"] = str(settings[name])
    for result in (origin.pretrain_result, origin.result):
        if "images" in result and result.get("job") == "pretrain":
            rows["images used without labels"] = f"{result['images']:,}"
    if "labelled_images" in origin.result:
        rows["labeled images"] = f"{origin.result['labelled_images']:,}"
    if "seed" in origin.config:
        rows["seed"] = str(origin.config["seed"])
    rows["checkpoint step"] = f"{meta['step']:,}"
    if (environment := origin.result.get("environment")) is not None:
        versions = environment["versions"]
        rows["trained with"] = (
            f"smallvit_jax {versions['smallvit_jax']}, jax {versions['jax']}, "
            f"{environment['device_count']} x {environment['device_kind']}"
        )
    return rows
