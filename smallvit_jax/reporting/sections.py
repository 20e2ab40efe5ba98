"""The report of one run, question by question."""

from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from smallvit_jax.config.jobs import STAGES
from smallvit_jax.evaluation.verdict import advice, judge_stages
from smallvit_jax.plans.data_and_model import Data
from smallvit_jax.reporting import figures, model_sections
from smallvit_jax.reporting.page import Block, Code, PageContent, Picture, Section, Table
from smallvit_jax.reporting.runs import (
    Run,
    StageRecord,
    changed_fields,
    describe_environment,
    read_predictions,
)

_TITLES = {
    "loss": "loss",
    "accuracy": "training accuracy in %",
    "gradient_norm": "gradient norm",
    "teacher_entropy": "teacher entropy in nats",
    "mutual_information": "mutual information in nats",
    "prediction": "prediction loss",
    "statistic": "statistic",
    "masked_loss": "loss on masked patches",
    "visible_loss": "loss on visible patches",
    "constant_loss": "loss of a constant on masked patches",
    "spread": "standard deviation of projections",
    "learning_rate": "learning rate",
    "weight_decay": "weight decay",
    "teacher_momentum": "teacher momentum",
    "teacher_temperature": "teacher temperature",
}


def build_page(run: Run, data: Data | None, missing: str | None) -> PageContent:
    """Builds the report; `data` is None if the dataset is missing, and `missing` says why."""
    predictions = read_predictions(run)
    if predictions is None and data is not None and len(data.test.labels):
        predictions = model_sections.predict(run, data)
    c = run.config
    environment = next(iter(run.stages.values())).result["environment"]
    subtitle = (
        f"{', '.join(STAGES[name] for name in run.stages)}; seed {c.seed}; "
        f"{environment['device_count']} x {environment['device_kind']}"
    )
    sections = [
        Section("Did pre-training help?", _pretraining(run)),
        Section("How did training go?", _curves(run)),
        Section("What did the model see?", model_sections.views(run, data)),
        Section("Where does it fail?", model_sections.failures(run, data, predictions)),
        Section("What does it look at?", model_sections.attention(run, data)),
        Section("How does it tell images apart?", model_sections.embedding(run, predictions, data)),
        Section("How robust is it?", _corruptions(run)),
        Section("How large is the model?", model_sections.parameters(run)),
        Section("How do I run it again?", _run_again(run, missing)),
    ]
    return PageContent(f"{c.model.name} on {dataset_title(c)}", subtitle, headline(run), sections)


def dataset_title(config: ConfigDict) -> str:
    """The dataset's name, or the folder's name for your own images."""
    return Path(config.dataset.root).name or config.dataset.name


def headline(run: Run) -> dict[str, str]:
    """The main results of a run: name, and value as text."""
    tuned, scratch = run.stages.get("finetune"), run.stages.get("scratch")
    evaluated = run.stages.get("evaluate")
    found: dict[str, float | None] = {}
    main = tuned or evaluated
    if main and "test_top1" in main.result:
        found["test accuracy"] = main.result["test_top1"]
        found["test accuracy of the probe"] = main.result.get("probe_test_top1")
    if scratch:
        found["test accuracy, from scratch"] = scratch.result["test_top1"]
    if tuned and "validation_top1" in tuned.result:
        found["validation accuracy"] = tuned.result["validation_top1"]
    if evaluated:
        found["calibration error"] = evaluated.result.get("ece")
        found["linear probe accuracy"] = evaluated.result.get("linear_probe", {}).get("top1")
        found["kNN accuracy"] = evaluated.result.get("knn_top1")
        corrupted = evaluated.result.get("corruptions", {})
        found["error on corrupted images"] = corrupted.get("mce15", corrupted.get("mean_error"))
    if "pretrain" in run.stages:
        found["kNN accuracy after pre-training"] = run.stages["pretrain"].result.get("knn_after")
    tiles = {name: f"{value:.1f} %" for name, value in found.items() if value is not None}
    tiles["time"] = duration(sum(s.result.get("seconds", 0) for s in run.stages.values()))
    return tiles


def duration(seconds: float) -> str:
    """Formats seconds for people."""
    minutes, hours = round(seconds / 60), seconds / 3600
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{hours:.1f} h"


def _pretraining(run: Run) -> list[Block]:
    parts: list[Block] = []
    results = {name: stage.result for name, stage in run.stages.items()}
    if {"finetune", "scratch"} <= results.keys():
        parts += _against_scratch(run, results)
    stage = run.stages.get("pretrain")
    if stage is not None:
        epochs, top1 = stage.series("knn", "top1")
        if len(epochs) > 1:
            raw = stage.result.get("knn_raw_pixels")
            parts += [
                "kNN accuracy of features learned without labels: "
                f"{top1[0]:.1f} % before pre-training, {top1[-1]:.1f} % after it"
                + (f", {raw:.1f} % on raw pixels." if raw is not None else "."),
                Picture(
                    "knn",
                    figures.draw_knn((epochs, top1), raw),
                    "A rising curve means that images of the same class move closer together.",
                ),
            ]
        before, after = stage.result.get("rankme_before"), stage.result.get("rankme_after")
        if before is not None:
            parts.append(
                f"RankMe, the effective rank of the features, which needs no labels: {before:.1f} "
                f"before, {after:.1f} after."
            )
    return parts + advice(results)


def _against_scratch(run: Run, results: dict[str, dict[str, Any]]) -> list[Block]:
    curves = {
        title: run.stages[name].series("test", "top1")
        for name, title in (("finetune", "pre-trained"), ("scratch", "from scratch"))
    }
    tuned, scratch = (results[name]["test_top1"] for name in ("finetune", "scratch"))
    verdict = judge_stages(results)
    answer = [] if verdict is None else [f"{str(verdict).capitalize()}."]
    return [
        *answer,
        f"The same model, labels and number of steps: {tuned:.1f} % pre-trained, {scratch:.1f} % "
        "from scratch.",
        Picture(
            "scratch",
            figures.draw_curves({"test accuracy in %": curves}, width=6, height=3),
            "Over the epochs. The last point is the result.",
        ),
    ]


def _curves(run: Run) -> list[Block]:
    parts: list[Block] = []
    for name, stage in run.stages.items():
        if not stage.rows:
            continue
        quantities: dict[str, dict[str, figures.Curve]] = {}
        for split in ("test", "test_plain", "validation"):
            if len(stage.series(split, "top1")[0]):
                shown = quantities.setdefault("accuracy after each epoch in %", {})
                shown[split.replace("_plain", ", without averaging")] = stage.series(split, "top1")
        for value, title in _TITLES.items():
            if value in stage.quantities:
                quantities[title] = {"": stage.series("train", value)}
        parts.append(
            Picture(
                f"curves_{name}",
                figures.draw_curves(quantities),
                _explain_curves(run, name),
                wide=True,
            )
        )
    return parts


_PRETRAINING_CURVES = {
    "dino": "A small drop in the loss is normal. Mutual information measures how much the "
    "teacher's output says about the image; near zero means collapse.",
    "lejepa": "The prediction loss measures how far apart the views of an image are, the statistic "
    "how far the projections are from a Gaussian (about 1 for a Gaussian); a large statistic and a "
    "small standard deviation mean collapse.",
    "mae": "A model that predicts the mean of each patch has the loss shown as that of a constant.",
}


def _explain_curves(run: Run, name: str) -> str:
    title = STAGES[name].capitalize()
    if name == "pretrain":
        return f"{title}. {_PRETRAINING_CURVES[run.config.pretrain.objective]}"
    return (
        f"{title}. The training loss is computed on mixed and augmented "
        "images, so it is usually higher than the test loss."
    )


def _corruptions(run: Run) -> list[Block]:
    stage = run.stages.get("evaluate")
    found: dict[str, Any] = stage.result.get("corruptions", {}) if stage else {}
    if stage is None or not found:
        return []
    mean = found.get("mce15", found["mean_error"])
    parts: list[Block] = [
        f"{found['source']}, {found['images']:,} images: mean error {mean:.1f} %, against "
        f"{100 - stage.result['test_top1']:.1f} % on clean images.",
        Picture(
            "corruptions",
            figures.draw_corruptions(found["errors"], 100 - stage.result["test_top1"]),
            "Five severities of each kind; darker is stronger.",
            wide=True,
        ),
    ]
    return parts + [f"Skipped: {kind} ({reason})." for kind, reason in found["skipped"].items()]


def _run_again(run: Run, missing: str | None) -> list[Block]:
    parts: list[Block] = []
    if missing:
        parts.append(f"Sections with images are left out because the dataset is missing: {missing}")
    if run.command:
        parts.append(Code(run.command))
    changed = changed_fields(run.config)
    parts.append(
        Table(("field", "value"), [(path, _shown(value)) for path, value in changed.items()])
    )
    rows = [_stage_row(stage) for stage in run.stages.values()]
    parts.append(Table(("stage", "time", "images per second", "steps"), rows))
    environment = next(iter(run.stages.values())).result["environment"]
    return [*parts, describe_environment(environment)]


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _stage_row(stage: StageRecord) -> tuple[str, ...]:
    rate = stage.result.get("images_per_second")
    return (
        STAGES[stage.name],
        duration(stage.result.get("seconds", 0)),
        "" if rate is None else f"{rate:,.0f}",
        f"{stage.result['steps']:,}" if "steps" in stage.result else "",
    )
