"""The model card: what stands beside exported weights, so that others can use and judge them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from smallvit_jax.checkpoints.lookup import FOLDER
from smallvit_jax.data.datasets import DATASETS
from smallvit_jax.errors import UserError
from smallvit_jax.reporting.runs import COMMAND
from smallvit_jax.workdir import records

_FAMILIES = {"vit": "vision transformer (ViT)", "swin": "Swin transformer", "cait": "CaiT"}
_MOST_CLASSES = 200  # named in full
# What the card tells of training, by the group of the config that it stands in.
_SETTINGS = {
    "epochs": "epochs",
    "passes_per_epoch": "passes per epoch",
    "batch_size": "batch size",
    "optimizer.name": "optimiser",
    "optimizer.base_lr": "learning rate per 256 images",
    "optimizer.lr": "learning rate",
    "optimizer.weight_decay": "weight decay",
}


class Origin(NamedTuple):
    """Where a model comes from: the result and config of its stage, of the pre-training before it,
    and of the evaluation after it; what is not there is empty."""

    result: Mapping[str, Any]
    config: Mapping[str, Any]
    pretrain_result: Mapping[str, Any]
    pretrain_config: Mapping[str, Any]
    evaluation: Mapping[str, Any]
    command: str


def read_origin(checkpoint: Path, step: int) -> Origin:
    """What the folders around a checkpoint of a step tell of its training.

    Figures of another step are left out: they are of other weights.
    """
    checkpoint = checkpoint.absolute()
    parts = (checkpoint, checkpoint.parent, checkpoint.parent.parent)
    stage = next((p for p in parts if (p / FOLDER).is_dir() and p.name != FOLDER), None)
    if stage is None:
        return Origin({}, {}, {}, {}, {}, "")
    config = _config(stage)
    before = config.get("finetune", {}).get("init_from", "")
    pretrained = (stage / before) if before else stage / "nowhere"
    if before and not pretrained.is_dir():
        pretrained = Path(before)  # as it was given on the command line
    result = _result(stage)
    beside = stage.parent / "evaluate"
    evaluated = _config(beside).get("evaluate", {}).get("checkpoint")
    evaluation = _result(beside) if evaluated == f"../{stage.name}" else {}
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
        return records.read_result(folder) or {}
    except UserError:
        return {}


def _config(folder: Path) -> dict[str, Any]:
    try:
        return records.read_config(folder) or {}
    except UserError:
        return {}


def write_card(
    meta: Mapping[str, Any], values: int, weights: str, keys: Sequence[str], origin: Origin
) -> str:
    """The card as Markdown, with the head that model hubs read.

    `meta` is the checkpoint's, `values` the number of parameters, `weights` the file beside the
    card, `keys` some of the names in it.
    """
    classes = meta["class_names"] if meta["model"]["num_classes"] else []
    sections = [
        _head(meta, classes),
        f"# {meta['model']['name']} on {_dataset(meta, origin)}\n\n"
        f"{_summary(meta, values, classes, _dataset(meta, origin))}",
        _use(meta, weights, keys, classes),
        _accuracy(origin),
        _training(meta, origin),
        _classes(classes),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _head(meta: Mapping[str, Any], classes: Sequence[str]) -> str:
    kind = "image-classification" if classes else "image-feature-extraction"
    name = meta["model"]["name"]
    return f"---\nlibrary_name: smallvit_jax\npipeline_tag: {kind}\ntags:\n- {name}\n- jax\n---"


def _dataset(meta: Mapping[str, Any], origin: Origin) -> str:
    """The dataset's name; of one's own images that of their folder, where it is known."""
    return Path(origin.config.get("dataset", {}).get("root", "")).name or meta["dataset"]


def _summary(meta: Mapping[str, Any], values: int, classes: Sequence[str], dataset: str) -> str:
    m = meta["model"]
    family = _FAMILIES.get(m["name"], m["name"])
    gives = (
        f"tells {len(classes)} classes apart"
        if classes
        else "gives features and has no classifier; it was trained without labels"
    )
    return (
        f"A {family} for images of {m['image_size']} x {m['image_size']} pixels with {values:,} "
        f"parameters. It {gives}. Trained from nothing on the dataset "
        f'"{dataset}" with smallvit_jax.'
    )


def _use(meta: Mapping[str, Any], weights: str, keys: Sequence[str], classes: Sequence[str]) -> str:
    call = 'predictor.predict("photos")' if classes else 'predictor.embed("photos")'
    mean, std = (", ".join(f"{v:.4f}" for v in meta[name]) for name in ("mean", "std"))
    size = meta["model"]["image_size"]
    shown = "\n".join(f"    {key}" for key in keys)
    return f"""## Use it

```python
import smallvit_jax

predictor = smallvit_jax.load_predictor("{weights}")
found = {call}  # a file, a folder, a list of files or a uint8 array
```

Images go in as RGB: {_to_square(meta["dataset"], size)},
values on a scale of 0 to 1, minus the mean ({mean}), divided by the standard deviation ({std}).

`{weights}` has PyTorch's names and layouts{_theirs(meta["model"])}

```python
from safetensors.torch import load_file

model.load_state_dict(load_file("{weights}"))
```

Its first keys:

{shown}"""


def _to_square(dataset: str, size: int) -> str:
    if dataset in DATASETS and DATASETS[dataset].squeezed:
        return f"whole, scaled to {size} x {size} pixels whatever their shape"
    return f"the shorter side scaled to {size} pixels, the middle {size} x {size} cut out"


# What the PyTorch code of the paper has; a model with another value is none of its own.
_PLAIN = {"stem": "patchify", "pool": "cls", "pos_embed": "learned", "lsa": False}


def _theirs(options: Mapping[str, Any]) -> str:
    own = [k for k, plain in _PLAIN.items() if options.get(k, plain) not in (plain, None)]
    if options["name"] not in _FAMILIES or own:
        return ":"
    return (
        ', those of the code of "How to Train Vision Transformer on\nSmall-scale Datasets?" (BMVC '
        "2022), which loads it too, once its model is built with the same sizes:"
    )


def _accuracy(origin: Origin) -> str:
    evaluated, result = origin.evaluation, origin.result
    rows = []
    for source, name, label in (
        (evaluated or result, "test_top1", "test accuracy, last epoch"),
        (evaluated or result, "test_top5", "test accuracy, top 5"),
        (result, "validation_top1", "accuracy on held-out training images"),
        (evaluated, "ece", "calibration error"),
        (evaluated, "knn_top1", "nearest neighbours on its features"),
        (evaluated.get("linear_probe", {}), "top1", "linear classifier on its features"),
        (evaluated.get("corruptions", {}), "mean_error", "mean error on corrupted images"),
        (result, "knn_after", "nearest neighbours on its features"),
    ):
        if source.get(name) is not None:
            rows.append(f"| {label} | {source[name]:.2f} % |")
    if not rows:
        return ""
    images = f", on {evaluated['test_images']:,} test images" if evaluated else ""
    figures = "\n".join(dict.fromkeys(rows))
    return (
        f"## How good it is\n\nMeasured by the run itself{images}, one seed.\n\n"
        f"| figure | value |\n|---|---|\n{figures}"
    )


def _training(meta: Mapping[str, Any], origin: Origin) -> str:
    rows = []
    stages = (("pretrain", origin.pretrain_config), ("finetune", origin.config))
    if "pretrain" in origin.config:
        stages = (("pretrain", origin.config),)
    for stage, config in stages:
        settings = _flat(config.get(stage, {}))
        rows += [
            f"| {'pre-training' if stage == 'pretrain' else 'fine-tuning'}: {label} | "
            f"{settings[name]} |"
            for name, label in _SETTINGS.items()
            if name in settings
        ]
    for result, label in (
        (origin.pretrain_result, "images seen without labels"),
        (origin.result, "images seen without labels"),
    ):
        if "images" in result and result.get("job") == "pretrain":
            rows.append(f"| {label} | {result['images']:,} |")
    if "labelled_images" in origin.result:
        rows.append(f"| labeled images | {origin.result['labelled_images']:,} |")
    if "seed" in origin.config:
        rows.append(f"| seed | {origin.config['seed']} |")
    rows.append(f"| step of the checkpoint | {meta['step']:,} |")
    if (environment := origin.result.get("environment")) is not None:
        versions = environment["versions"]
        rows.append(
            f"| made with | smallvit_jax {versions['smallvit_jax']}, jax {versions['jax']}, "
            f"{environment['device_count']} x {environment['device_kind']} |"
        )
    told = {k: v for k, v in meta["model"].items() if v is not None and k != "name"}
    options = ", ".join(f"{k} {v}" for k, v in told.items())
    text = f"## How it was trained\n\n| | |\n|---|---|\n| model | {options} |\n" + "\n".join(rows)
    if meta.get("converted_from"):
        text += f"\n\nConverted from `{meta['converted_from']}`."
    if origin.command:
        text += f"\n\nThe command:\n\n```bash\n{origin.command}\n```"
    return text


def _flat(group: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in group.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _classes(classes: Sequence[str]) -> str:
    if not classes:
        return ""
    names = ", ".join(classes[:_MOST_CLASSES])
    more = f" and {len(classes) - _MOST_CLASSES} more" if len(classes) > _MOST_CLASSES else ""
    return (
        f"## Classes\n\nIn the order of its outputs: {names}{more}.\n\nWhatever an image shows, "
        "the answer is one of these: a picture of anything else gets a wrong name."
    )
