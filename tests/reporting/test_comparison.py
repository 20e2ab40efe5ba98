"""The page that compares runs."""

from pathlib import Path

from smallvit_jax.config import default_config
from smallvit_jax.reporting.comparison import compare
from smallvit_jax.reporting.page import Picture
from smallvit_jax.reporting.runs import Run, StageRecord


def some_run(*stages: str) -> Run:
    """A run with test accuracies or kNN accuracies of its stages after two epochs."""
    records = {}
    for stage in stages:
        split = "knn" if stage == "pretrain" else "test"
        rows = [{"split": split, "epoch": epoch, "top1": 50 + epoch} for epoch in (1, 2)]
        records[stage] = StageRecord(stage, Path(stage), {}, rows)
    return Run(Path("run"), default_config(), {}, records, None)


def test_each_run_has_one_color_in_all_panels():
    runs = {"a": some_run("finetune"), "b": some_run("pretrain", "finetune")}
    section = next(s for s in compare(runs).sections if s.title == "How did training go?")
    (picture,) = section.blocks
    assert isinstance(picture, Picture)
    colors = [{line.get_label(): line.get_color() for line in a.lines} for a in picture.figure.axes]
    knn, test = colors
    assert set(knn) == {"b"} and set(test) == {"a", "b"}
    assert knn["b"] == test["b"] != test["a"]
