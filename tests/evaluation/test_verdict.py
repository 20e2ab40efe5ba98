"""Whether pre-training helped, with its uncertainty, and what to try."""

import math

import pytest

from smallvit_jax.evaluation.verdict import advice, judge, judge_stages


@pytest.mark.parametrize(
    ("pretrained", "scratch", "answer"),
    [(95.0, 80.0, "yes"), (80.0, 95.0, "no"), (80.8, 82.2, "cannot tell"), (80, 80, "cannot tell")],
)
def test_answer_needs_two_standard_errors(pretrained, scratch, answer):
    verdict = judge(pretrained, scratch, 360)
    error = math.sqrt(pretrained * (100 - pretrained) / 360 + scratch * (100 - scratch) / 360)
    assert verdict.answer == answer
    assert verdict.standard_error == pytest.approx(error)
    assert (abs(pretrained - scratch) > 2 * error) == (answer != "cannot tell")


def test_verdict_reads_as_a_sentence():
    text = str(judge(95.0, 80.0, 3600))
    assert text == "yes: +15.0 points ± 0.8 (standard error, 3,600 test images)"


def stages(tuned=90.0, scratch=80.0, probe=None, **pretraining):
    return {
        "pretrain": {"objective": "lejepa", "weights_moved": 60.0} | pretraining,
        "finetune": {"test_top1": tuned, "probe_test_top1": probe, "test_images": 1000},
        "scratch": {"test_top1": scratch},
    }


def test_success_needs_no_advice():
    assert advice(stages()) == []
    assert judge_stages(stages()).answer == "yes"


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (stages(weights_moved=2.0), "hardly moved the weights (2.0 % of their norm)"),
        (stages(probe=90.5), "(90.0 % against 90.5 %), by less than the standard error."),
        (stages(probe=92.0), "(90.0 % against 92.0 %): lower finetune.optimizer.lr"),
        (stages(tuned=80.0, objective="dino"), "pretrain.objective=lejepa learns more"),
        (stages(tuned=80.0, knn_before=50.0, knn_after=49.0), "did not improve the features"),
        (stages(tuned=80.0), "More test images or more seeds"),
    ],
)
def test_each_problem_is_named_with_what_to_try(found, words):
    assert any(words in sentence for sentence in advice(found))


def test_masked_autoencoding_is_not_judged_by_knn():
    found = stages(tuned=80.0, objective="mae", knn_before=50.0, knn_after=49.0)
    assert not any("features" in sentence for sentence in advice(found))


def test_older_results_lack_some_figures():
    found = {
        "pretrain": {"knn_before": None, "knn_after": None},
        "finetune": {"test_top1": 90.0},
        "scratch": {"test_top1": 80.0},
    }
    assert judge_stages(found) is None and advice(found) == []
    assert judge_stages(found | {"evaluate": {"test_images": 1000}}).answer == "yes"


def test_without_a_run_from_scratch_there_is_no_verdict():
    found = stages(probe=95.0)
    del found["scratch"]
    assert judge_stages(found) is None
    assert len(advice(found)) == 1
