"""The table of jobs: one row for each, and a module of the same name in `smallvit_jax/jobs/`.

Everything that differs between jobs and is known before one runs stands here: which fields a job
reads, what it needs of its dataset, which fields must be set, which page ends it.
"""

import dataclasses

ALL = ("",)  # every field of the config
RUN_PAGE = "sections"  # the report of a run and its stages


@dataclasses.dataclass(frozen=True)
class Required:
    """A field that a job cannot run without, with what it is and an example."""

    path: str
    what: str
    example: str


@dataclasses.dataclass(frozen=True)
class Job:
    """A job.

    Attributes:
      name: the value of `config.job`, and the name of its module.
      uses: groups and single fields that its results depend on. They are written to the workdir's
        `config.json`, and a later run that differs in one of them is refused there.
      reads_dataset: whether it reads the dataset that `config.dataset` names.
      needs_labels: whether training and test images must have labels.
      pretrains, finetunes: whether it trains without labels, with labels.
      starts_fresh: whether it decides itself what training starts from, so that
        `finetune.init_from` must be empty.
      page: module of `smallvit_jax.reporting` that builds the `report.html` it ends with; empty for
        none.
      required: fields that must be set.
    """

    name: str
    uses: tuple[str, ...]
    reads_dataset: bool = False
    needs_labels: bool = False
    pretrains: bool = False
    finetunes: bool = False
    starts_fresh: bool = False
    page: str = ""
    required: tuple[Required, ...] = ()


def _checkpoint(group: str, use: str) -> Required:
    what = f"the stage folder or checkpoint to {use}"
    return Required(f"{group}.checkpoint", what, "runs/x/finetune")


_NEW_IMAGES = (
    _checkpoint("predict", "use"),
    Required("predict.input", "an image file or a folder of them", "photos"),
)
_DATASET = {"reads_dataset": True}
_LABELS = {"reads_dataset": True, "needs_labels": True}

_ROWS = (
    Job(
        "pretrain",
        uses=(
            *("dataset", "model", "pretrain", "runtime", "seed"),
            *("evaluate.knn_neighbors", "evaluate.knn_temperature"),
        ),
        pretrains=True,
        page=RUN_PAGE,
        **_DATASET,
    ),
    Job(
        "finetune",
        uses=("dataset", "model", "finetune", "runtime", "seed"),
        finetunes=True,
        page=RUN_PAGE,
        **_LABELS,
    ),
    Job(
        "recipe",
        uses=ALL,
        pretrains=True,
        finetunes=True,
        starts_fresh=True,
        page=RUN_PAGE,
        **_LABELS,
    ),
    Job(
        "evaluate",
        uses=("dataset", "evaluate", "runtime", "seed"),
        required=(_checkpoint("evaluate", "evaluate"),),
        **_LABELS,
    ),
    Job(
        "convert",
        uses=("dataset", "model", "convert"),
        required=(Required("convert.source", "a weights file or a stage folder", "best.pth"),),
    ),
    Job(
        "attention",
        uses=("dataset", "attention", "runtime", "seed"),
        required=(_checkpoint("attention", "look into"),),
    ),
    Job("predict", uses=("predict", "runtime"), required=_NEW_IMAGES),
    Job("embed", uses=("predict", "runtime"), required=_NEW_IMAGES),
    Job("report", uses=()),
    Job(
        "data_efficiency",
        uses=ALL,
        pretrains=True,
        finetunes=True,
        starts_fresh=True,
        **_LABELS,
    ),
    Job(
        "compare",
        uses=("dataset", "model", "pretrain", "finetune", "runtime"),
        pretrains=True,
        finetunes=True,
        starts_fresh=True,
        page="compared_variants",
        **_LABELS,
    ),
    Job(
        "sweep",
        uses=(
            *("dataset", "model", "finetune", "runtime", "seed"),
            *("sweep.adamw_lr", "sweep.adamw_weight_decay"),
            *("sweep.sgd_lr", "sweep.sgd_weight_decay"),
        ),
        finetunes=True,
        starts_fresh=True,
        page="sweep_page",
        **_LABELS,
    ),
)

JOBS: dict[str, Job] = {row.name: row for row in _ROWS}
