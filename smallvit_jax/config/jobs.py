"""The table of jobs: each row has a module of the same name in `smallvit_jax/jobs/`.

It holds what is known about a job before it runs: the fields it reads, its requirements on the
dataset, the fields that must be set, and its report page.
"""

import dataclasses
from typing import Any

ALL = ("",)  # every field of the config
RUN_PAGE = "sections"  # the report on a run and its stages


@dataclasses.dataclass(frozen=True)
class Required:
    """A field that a job cannot run without, with a description and an example."""

    path: str
    what: str
    example: str


@dataclasses.dataclass(frozen=True)
class Job:
    """A job.

    Attributes:
      name: the value of `config.job`, and the name of its module.
      uses: groups and single fields that its results depend on. They are written to the workdir's
        `config.json`, and later runs in the workdir must not change them.
      reads_dataset: whether it always reads the dataset in `config.dataset`; "attention" reads it
        unless it has images in `attention.input`.
      needs_labels: whether training and test images must have labels.
      pretrains: whether it trains without labels.
      finetunes: whether it trains with labels.
      starts_fresh: whether it chooses the initial weights itself, so that `finetune.init_from` must
        be empty.
      writes: whether it writes to a workdir, which the command must then give.
      page: module of `smallvit_jax.reporting` that builds its `report.html`; empty for none.
      required: fields that must be set.
    """

    name: str
    uses: tuple[str, ...]
    reads_dataset: bool = False
    needs_labels: bool = False
    pretrains: bool = False
    finetunes: bool = False
    starts_fresh: bool = False
    writes: bool = True
    page: str = ""
    required: tuple[Required, ...] = ()


def _checkpoint(group: str, use: str) -> Required:
    what = f"the stage folder or checkpoint to {use}"
    return Required(f"{group}.checkpoint", what, "runs/x/finetune")


_NEW_IMAGES = (
    _checkpoint("predict", "use"),
    Required("predict.input", "an image file or a folder of images", "photos"),
)
_DATASET: dict[str, Any] = {"reads_dataset": True}
_LABELS: dict[str, Any] = {"reads_dataset": True, "needs_labels": True}

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
    Job("advise", uses=(), writes=False, **_DATASET),
    Job(
        "compile_check",
        uses=("dataset", "model", "pretrain", "finetune", "runtime", "seed", "compile_check"),
        pretrains=True,
        finetunes=True,
        **_DATASET,
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
        required=(_checkpoint("attention", "visualize"),),
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

STAGES = {
    "pretrain": "pre-training",
    "finetune": "fine-tuning",
    "scratch": "training from scratch",
    "evaluate": "evaluation",
}
"""Titles of the stages in reports, in their order: by job, or by folder of a recipe."""
