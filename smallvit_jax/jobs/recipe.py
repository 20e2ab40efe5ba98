"""The whole recipe in one command: pre-train, fine-tune, evaluate, and print a short table."""

from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from smallvit_jax.config.jobs import JOBS
from smallvit_jax.config.tree import part_of
from smallvit_jax.evaluation.verdict import Verdict, advice, judge_stages
from smallvit_jax.jobs import evaluate, finetune, pretrain
from smallvit_jax.plans import finetuning, pretraining
from smallvit_jax.plans.data_and_model import DatasetReader
from smallvit_jax.process.terminal import print_table
from smallvit_jax.workdir.ownership import finished_result, locked
from smallvit_jax.workdir.records import write_config, write_result


def run(config: ConfigDict, workdir: Path, reader: DatasetReader) -> dict[str, Any]:
    """Runs every stage in its own folder and returns the contents of `workdir/result.json`.

    Finished stages are not repeated; an interrupted one resumes. With `config.recipe.from_scratch`,
    the same model is also trained without pre-training, on the same labels for the same number of
    steps.
    """
    used = part_of(config, JOBS["recipe"].uses)
    if done := finished_result(workdir, used):
        print(f"the recipe is already done: {workdir}")
        _show(done, workdir)
        return done
    data = reader.load(config)
    # Raises for mistakes in either stage before the first one starts.
    pretraining.make_plan(config, data)
    finetuning.make_plan(config, data)
    with locked(workdir):
        write_config(workdir, used)
        result = _sum_up(config, _run_stages(config, workdir, reader))
        result = write_result(workdir, result)
    _show(result, workdir)
    return result


def _run_stages(
    config: ConfigDict, workdir: Path, reader: DatasetReader
) -> dict[str, dict[str, Any]]:
    """Returns the results of all stages, by name."""
    stages: dict[str, dict[str, Any]] = {}
    stages["pretrain"] = pretrain.run(config, workdir / "pretrain", reader)
    stages["finetune"] = finetune.run(
        config, workdir / "finetune", reader, init_from=workdir / "pretrain"
    )
    if config.recipe.from_scratch:
        stages["scratch"] = finetune.run(config, workdir / "scratch", reader)
    stages["evaluate"] = evaluate.run(
        config, workdir / "evaluate", reader, checkpoint=workdir / "finetune"
    )
    return stages


# Results of the evaluation that are only in its own result.json.
_BULKY = ("calibration", "per_class", "confusion", "knn_sweep")


def _sum_up(config: ConfigDict, stages: dict[str, Any]) -> dict[str, Any]:
    evaluation = {k: v for k, v in stages["evaluate"].items() if k not in _BULKY}
    verdict = judge_stages(stages)
    return {
        "job": "recipe",
        "dataset": config.dataset.name,
        "seed": config.seed,
        "test_top1": stages["evaluate"]["test_top1"],
        "test_top5": stages["evaluate"]["test_top5"],
        "linear_probe_top1": evaluation.get("linear_probe", {}).get("top1"),
        "probe_test_top1": stages["finetune"].get("probe_test_top1"),
        "scratch_test_top1": stages.get("scratch", {}).get("test_top1"),
        "pretraining_helped": verdict and verdict._asdict(),
        "advice": advice(stages),
        "knn_raw_pixels": stages["pretrain"]["knn_raw_pixels"],
        "knn_before": stages["pretrain"]["knn_before"],
        "knn_after": stages["pretrain"]["knn_after"],
        "seconds": round(sum(stage["seconds"] for stage in stages.values()), 1),
        "stages": stages | {"evaluate": evaluation},
    }


def _show(result: dict[str, Any], workdir: Path) -> None:
    labels = result["stages"]["finetune"]["labelled_images"]
    figures = {
        f"test accuracy, pre-trained and fine-tuned ({labels} labels)": result["test_top1"],
        "test accuracy before fine-tuning, a probe": result.get("probe_test_top1"),
        "test accuracy, from scratch, same number of steps": result["scratch_test_top1"],
        "kNN accuracy after pre-training": result["knn_after"],
        "kNN accuracy before pre-training": result["knn_before"],
        "kNN accuracy on raw pixels": result["knn_raw_pixels"],
    }
    rows = [(text, f"{value:.1f} %") for text, value in figures.items() if value is not None]
    if verdict := result.get("pretraining_helped"):
        rows.append(("did pre-training help?", str(Verdict(**verdict))))
    rows.append(("time", f"{result['seconds']:.0f} s"))
    print_table(f"{result['dataset']}, seed {result['seed']}", rows)
    for sentence in result.get("advice", ()):
        print(f"  {sentence}")
    print(f"  results: {workdir}/result.json, models: {workdir}/{{pretrain,finetune}}")
