"""Did pre-training help? Compares two test accuracies and says what to try."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

HARDLY_MOVED = 5.0  # percent of the weights' norm; runs that learned something moved 15 and more


class Verdict(NamedTuple):
    """The difference that pre-training made, in points of test accuracy.

    `answer` is "yes" or "no" if the difference is more than two standard errors above or below 0,
    otherwise "cannot tell".
    """

    answer: str
    difference: float
    standard_error: float
    images: int

    def __str__(self) -> str:
        return (
            f"{self.answer}: {self.difference:+.1f} points ± {self.standard_error:.1f} "
            f"(standard error, {self.images:,} test images)"
        )


def judge(pretrained: float, scratch: float, images: int) -> Verdict:
    """Compares two test accuracies in percent, each measured on the same `images` images.

    The standard error is that of the difference of two independent proportions, each
    sqrt(p (1 - p) / images). Models that make the same mistakes differ by less, so it errs on the
    side of "cannot tell". It is about the test images alone, not about other seeds.
    """
    variances = (p * (100 - p) / images for p in (pretrained, scratch))
    error, difference = math.sqrt(sum(variances)), pretrained - scratch
    answer = "cannot tell"
    if abs(difference) > 2 * error:
        answer = "yes" if difference > 0 else "no"
    return Verdict(answer, difference, error, images)


def judge_stages(stages: Mapping[str, Mapping[str, Any]]) -> Verdict | None:
    """Judges the results of stages; None without fine-tuning and training from scratch."""
    tuned, scratch = stages.get("finetune"), stages.get("scratch")
    if tuned is None or scratch is None:
        return None
    images = tuned.get("test_images") or stages.get("evaluate", {}).get("test_images")
    if images is None:
        return None
    return judge(tuned["test_top1"], scratch["test_top1"], images)


def advice(stages: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What to know about the results of a run's stages, and what to try, in sentences."""
    pretraining, tuned = stages.get("pretrain"), stages.get("finetune")
    verdict, found = judge_stages(stages), []
    if pretraining is not None:
        found += pretraining_advice(pretraining)
    if tuned is not None:
        found += finetuning_advice(tuned)
    if pretraining is None or verdict is None or verdict.answer == "yes":
        return found
    objective = pretraining.get("objective", "dino")
    if objective == "dino":
        found.append("In short runs, pretrain.objective=lejepa learns more from each image.")
    before, after = pretraining.get("knn_before"), pretraining.get("knn_after")
    if objective == "mae":  # kNN underrates it
        before = None
    if before is not None and after is not None and after <= before:
        found.append(
            f"Pre-training did not improve the features (kNN {before:.1f} % before, {after:.1f} % "
            "after): raise pretrain.epochs."
        )
    if verdict.answer == "cannot tell":
        found.append("More test images or more seeds would narrow the uncertainty.")
    return found


def pretraining_advice(result: Mapping[str, Any]) -> list[str]:
    """Says so if pre-training, with this result, hardly moved the weights."""
    moved = result.get("weights_moved")
    if moved is None or moved >= HARDLY_MOVED:
        return []
    return [
        f"Pre-training hardly moved the weights ({moved:.1f} % of their norm): raise "
        "pretrain.optimizer.base_lr or pretrain.epochs, or lower pretrain.batch_size."
    ]


def finetuning_advice(result: Mapping[str, Any]) -> list[str]:
    """Says so if fine-tuning, with this result, ended below the probe that it started from."""
    probe, tuned = result.get("probe_test_top1"), result["test_top1"]
    if probe is None or tuned >= probe:
        return []
    below = (
        "Fine-tuning ended below its start, a probe on frozen features "
        f"({tuned:.1f} % against {probe:.1f} %)"
    )
    if probe - tuned < math.sqrt(probe * (100 - probe) / result["test_images"]):
        return [f"{below}, by less than the standard error."]
    return [f"{below}: lower finetune.optimizer.lr or finetune.layer_decay."]
