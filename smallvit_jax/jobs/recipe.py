"""The whole recipe in one command: pre-train, fine-tune, evaluate, and a short table."""

from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from smallvit_jax.jobs import evaluate, finetune, pretrain
from smallvit_jax.plans import data_and_model as inputs
from smallvit_jax.process.terminal import print_table
from smallvit_jax.workdir.ownership import finished_result, locked
from smallvit_jax.workdir.records import write_config, write_result


def run(config: ConfigDict, workdir: Path, data_dir: str | None) -> dict[str, Any]:
    """Runs every stage in a folder of its own and returns what is in `workdir/result.json`.

    Stages that are done are not repeated, one that was interrupted continues. With
    `config.recipe.from_scratch` the same model is also trained without pre-training, for as many
    steps on the same labels.
    """
    if done := finished_result(workdir, config.to_dict()):
        print(f"the recipe is done already: {workdir}")
        _show(done, workdir)
        return done
    data = inputs.load_data(config, data_dir)
    pretrain.plan(config, data)  # so that a mistake about the second stage shows before the first
    finetune.plan(config, data)
    with locked(workdir):
        write_config(workdir, config.to_dict())
        result = _sum_up(config, _run_stages(config, workdir, data_dir))
        result = write_result(workdir, result)
    _show(result, workdir)
    return result


def _run_stages(config: ConfigDict, workdir: Path, data_dir: str | None) -> dict[str, Any]:
    """The results of all stages, by name."""
    stages: dict[str, dict[str, Any]] = {}
    stages["pretrain"] = pretrain.run(config, workdir / "pretrain", data_dir)
    stages["finetune"] = finetune.run(
        config, workdir / "finetune", data_dir, init_from=workdir / "pretrain"
    )
    if config.recipe.from_scratch:
        stages["scratch"] = finetune.run(config, workdir / "scratch", data_dir)
    stages["evaluate"] = evaluate.run(
        config, workdir / "evaluate", data_dir, checkpoint=workdir / "finetune"
    )
    return stages


# Of the evaluation, what its own result.json is the place for.
_BULKY = ("calibration", "per_class", "confusion", "knn_sweep")


def _sum_up(config: ConfigDict, stages: dict[str, Any]) -> dict[str, Any]:
    evaluation = {k: v for k, v in stages["evaluate"].items() if k not in _BULKY}
    return {
        "job": "recipe",
        "dataset": config.dataset.name,
        "seed": config.seed,
        "test_top1": stages["evaluate"]["test_top1"],
        "test_top5": stages["evaluate"]["test_top5"],
        "linear_probe_top1": evaluation.get("linear_probe", {}).get("top1"),
        "scratch_test_top1": stages.get("scratch", {}).get("test_top1"),
        "knn_raw_pixels": stages["pretrain"]["knn_raw_pixels"],
        "knn_before": stages["pretrain"]["knn_before"],
        "knn_after": stages["pretrain"]["knn_after"],
        "seconds": round(sum(stage["seconds"] for stage in stages.values()), 1),
        "stages": stages | {"evaluate": evaluation},
    }


def _show(result: dict[str, Any], workdir: Path) -> None:
    tuned = result["stages"]["finetune"]
    rows = [
        (
            f"test accuracy, pre-trained and fine-tuned ({tuned['labelled_images']} labels)",
            _percent(result["test_top1"]),
        )
    ]
    if result["scratch_test_top1"] is not None:
        rows.append(
            ("test accuracy, from scratch, as many steps", _percent(result["scratch_test_top1"]))
        )
    if result["knn_after"] is not None:
        rows += [
            ("kNN accuracy after pre-training", _percent(result["knn_after"])),
            ("kNN accuracy before it", _percent(result["knn_before"])),
        ]
    if result["knn_raw_pixels"] is not None:
        rows.append(("kNN accuracy on raw pixels", _percent(result["knn_raw_pixels"])))
    rows.append(("time", f"{result['seconds']:.0f} s"))
    print_table(f"{result['dataset']}, seed {result['seed']}", rows)
    print(f"  results: {workdir}/result.json, models: {workdir}/{{pretrain,finetune}}")


def _percent(value: float) -> str:
    return f"{value:.1f} %"
