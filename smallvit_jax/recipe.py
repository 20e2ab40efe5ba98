"""The whole recipe in one command: pre-train, fine-tune, evaluate, and a short table."""

import time
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from smallvit_jax import evaluate, finetune, pretrain
from smallvit_jax.training.logs import print_table
from smallvit_jax.training.stage import claim_folder, write_result


def run(config: ConfigDict, workdir: Path, data_dir: str | None) -> dict[str, Any]:
    """Runs every stage in a folder of its own and returns what is in `workdir/result.json`.

    Stages that are done are not repeated, one that was interrupted continues. With
    `config.recipe.from_scratch` the same model is also trained without pre-training, for as many
    steps on the same labels.
    """
    started = time.monotonic()
    claim_folder(workdir, config.to_dict())
    stages: dict[str, dict[str, Any]] = {}
    stages["pretrain"] = pretrain.run(config, workdir / "pretrain", data_dir)
    stages["finetune"] = finetune.run(
        config, workdir / "finetune", data_dir, init_from=str(workdir / "pretrain")
    )
    if config.recipe.from_scratch:
        stages["scratch"] = finetune.run(config, workdir / "scratch", data_dir, init_from="")
    stages["evaluate"] = evaluate.run(
        config, workdir / "evaluate", data_dir, checkpoint=str(workdir / "finetune")
    )
    result = {
        "job": "recipe",
        "dataset": config.dataset.name,
        "seed": config.seed,
        "test_top1": stages["evaluate"]["test_top1"],
        "test_top5": stages["evaluate"]["test_top5"],
        "scratch_test_top1": stages.get("scratch", {}).get("test_top1"),
        "knn_raw_pixels": stages["pretrain"]["knn_raw_pixels"],
        "knn_before": stages["pretrain"]["knn_before"],
        "knn_after": stages["pretrain"]["knn_after"],
        "seconds": round(sum(stage["seconds"] for stage in stages.values()), 1),
        "stages": stages,
    }
    write_result(workdir, result)
    _show(result, workdir, time.monotonic() - started)
    return result


def _show(result: dict[str, Any], workdir: Path, seconds: float) -> None:
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
            ("kNN accuracy on raw pixels", _percent(result["knn_raw_pixels"])),
        ]
    rows.append(("time", f"{seconds:.0f} s"))
    print_table(f"{result['dataset']}, seed {result['seed']}", rows)
    print(f"  results: {workdir}/result.json, models: {workdir}/{{pretrain,finetune}}")


def _percent(value: float) -> str:
    return f"{value:.1f} %"
