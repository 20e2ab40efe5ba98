"""Complete jobs from the command line, on a few digits with a tiny model."""

import itertools
import json
import math
import shutil

import numpy as np
import pytest

import smallvit_jax
from smallvit_jax.checkpoints.loading import load_backbone
from smallvit_jax.checkpoints.store import CheckpointStore, read_params_and_meta
from smallvit_jax.errors import UserError
from smallvit_jax.main import main
from smallvit_jax.models import create_model, resolve_options
from smallvit_jax.models.parameters import get_arrays
from tests.support.tiny_jobs import (
    ROOT,
    checkpoint_steps,
    read_checkpoint,
    read_json,
    read_metrics,
    run_job,
)

# The tiny recipe: 115 images in batches of 24, for 2 epochs, then for 3 epochs of two passes.
STAGES = {"pretrain": (4, 8), "finetune": (9, 27), "scratch": (9, 27)}  # steps per epoch, in total


def error_line(capsys) -> str:
    """The only line on stderr that starts with "error: "."""
    lines = [ln for ln in capsys.readouterr().err.splitlines() if ln.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize("stage", STAGES)
def test_stage_folder_has_config_metrics_and_checkpoint(tiny_recipe, stage):
    folder = tiny_recipe.folder / stage
    per_epoch, total = STAGES[stage]
    rows = read_metrics(folder, "train")
    assert [row["step"] for row in rows] == list(range(1, total + 1))
    assert [row["epoch"] for row in rows] == pytest.approx(
        [s / per_epoch for s in range(1, total + 1)]
    )
    for row in rows:
        assert all(math.isfinite(row[name]) for name in row.keys() - {"split"})
        assert row["gradient_norm"] > 0
    config = read_json(folder / "config.json")
    assert config["dataset"]["name"] == "digits" and config["seed"] == 0
    events = list(folder.glob("events.out.tfevents.*"))
    assert len(events) == 1 and events[0].stat().st_size > 100 * total
    assert checkpoint_steps(folder)[-1] == total
    step_folder = folder / "checkpoints" / str(total)
    assert {"state", "params", "meta"} <= {entry.name for entry in step_folder.iterdir()}
    result = read_json(folder / "result.json")
    assert result["steps"] == total and result["seed"] == 0 and result["seconds"] > 0
    assert result["dataset"] == "digits" and result["environment"]["device_count"] == 1
    assert result["environment"]["versions"]["smallvit_jax"] == smallvit_jax.__version__


def test_pretraining_reports_knn_accuracy_and_last_metrics(tiny_recipe):
    folder = tiny_recipe.folder / "pretrain"
    knn, result = read_metrics(folder, "knn"), read_json(folder / "result.json")
    assert [row["epoch"] for row in knn] == [0, 1, 2]
    assert knn[0]["raw_pixels"] == result["knn_raw_pixels"] > 80  # digits are that easy
    assert (knn[0]["top1"], knn[-1]["top1"]) == (result["knn_before"], result["knn_after"])
    last = read_metrics(folder, "train")[-1]
    for name in ("loss", "teacher_entropy", "mutual_information"):
        assert result[name] == last[name]
    assert result["images"] == 115


def test_finetuning_reports_last_and_best_epoch(tiny_recipe):
    for stage in ("finetune", "scratch"):
        folder = tiny_recipe.folder / stage
        test, validation = read_metrics(folder, "test"), read_metrics(folder, "validation")
        assert [row["epoch"] for row in test] == [row["epoch"] for row in validation] == [1, 2, 3]
        result = read_json(folder / "result.json")
        assert [result[f"test_{k}"] for k in ("top1", "top5", "loss")] == [
            test[-1][k] for k in ("top1", "top5", "loss")
        ]
        assert result["validation_top1"] == validation[-1]["top1"]
        assert result["best_on_test_top1"] == max(row["top1"] for row in test)
        chosen = result["best_on_validation_epoch"]
        best = max(row["top1"] for row in validation)
        assert [row["top1"] for row in validation if row["epoch"] == chosen] == [best]
        assert [row["top1"] for row in test if row["epoch"] == chosen] == [
            result["test_top1_at_best_validation"]
        ]
        assert result["labelled_images"] == 115


def test_recipe_summarizes_stages_and_prints_a_table(tiny_recipe):
    result = read_json(tiny_recipe.folder / "result.json")
    stages = {name: read_json(tiny_recipe.folder / name / "result.json") for name in STAGES}
    evaluated = read_json(tiny_recipe.folder / "evaluate" / "result.json")
    assert result["test_top1"] == evaluated["test_top1"] == stages["finetune"]["test_top1"]
    assert evaluated["test_loss"] == pytest.approx(stages["finetune"]["test_loss"], rel=1e-5)
    assert result["scratch_test_top1"] == stages["scratch"]["test_top1"]
    assert result["knn_after"] == stages["pretrain"]["knn_after"]
    for figure in (result["test_top1"], result["scratch_test_top1"], result["knn_raw_pixels"]):
        assert f"{figure:.1f} %" in tiny_recipe.stdout


def test_finetuning_starts_from_pretrained_weights(tiny_recipe):
    """Training from scratch with the same seed differs, and stdout says what was loaded."""
    tuned, scratch = (
        read_metrics(tiny_recipe.folder / s, "train") for s in ("finetune", "scratch")
    )
    assert tuned[0]["loss"] != scratch[0]["loss"]
    assert "loaded 18 arrays" in tiny_recipe.stdout
    assert "newly initialized: head.bias, head.kernel" in tiny_recipe.stdout
    config = {"name": "vit", "image_size": 16, "patch_size": 4, "width": 16, "depth": 1, "heads": 2}
    options = resolve_options(**config, drop_path=0.1, init="fan_in")
    model = create_model(**(options | {"num_classes": 10}))
    fresh = get_arrays(model)
    load_backbone(model, str(tiny_recipe.folder / "pretrain"), options)
    saved, _ = read_params_and_meta(tiny_recipe.folder / "pretrain")
    for name, value in get_arrays(model).items():
        expected = fresh[name] if name.startswith("head.") else saved[name]
        np.testing.assert_array_equal(value, expected, err_msg=name)


def test_too_long_warmup_is_shortened_with_a_warning(tiny_recipe):
    sentence = (
        "2 epochs are too few for pretrain.optimizer.warmup_epochs = 30; using 0.667, a third"
    )
    assert any(sentence in warning for warning in tiny_recipe.warnings)
    rates = [row["learning_rate"] for row in read_metrics(tiny_recipe.folder / "pretrain", "train")]
    highest = 5e-3 * 24 / 256
    rise = round(len(rates) / 3)
    assert rates[:rise] == pytest.approx(np.linspace(0, highest, rise))
    assert all(a > b for a, b in itertools.pairwise(rates[rise:]))


def snapshot(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def test_repeating_a_command_changes_nothing(tiny_recipe, capsys):
    before = snapshot(tiny_recipe.folder)
    assert run_job("recipe", tiny_recipe.folder, **tiny_recipe.changes) == 0
    assert "already done" in capsys.readouterr().out
    # Settings that do not affect the result may change.
    runtime = {"runtime__steps_per_dispatch": 2, "runtime__data_placement": "host"}
    for job, stage in (("pretrain", "pretrain"), ("finetune", "scratch")):
        assert run_job(job, tiny_recipe.folder / stage, **tiny_recipe.changes, **runtime) == 0
        assert "already done" in capsys.readouterr().out
    assert snapshot(tiny_recipe.folder) == before


@pytest.mark.slow
def test_recipe_of_an_older_version_is_shown_and_reported(tiny_recipe, tmp_path, capsys):
    """Its results lack the figures that were added since."""
    copy = tmp_path / "recipe"
    shutil.copytree(tiny_recipe.folder, copy)
    added = (
        "weights_moved",
        "rankme_",
        "objective",
        "probe_test",
        "test_images",
        "advice",
        "pretr",
    )
    for stage in ("", "pretrain", "finetune", "scratch"):
        result = read_json(copy / stage / "result.json")
        older = {name: value for name, value in result.items() if not name.startswith(added)}
        (copy / stage / "result.json").write_text(json.dumps(older))
    assert run_job("recipe", copy, **tiny_recipe.changes) == 0
    assert "test accuracy, from scratch" in capsys.readouterr().out
    assert main([f"--config={ROOT}/configs/report.py", f"--workdir={copy}"]) == 0
    text = (copy / "report.html").read_text()
    assert "The same model, labels and number of steps" in text
    (copy / "result.json").unlink()
    assert run_job("recipe", copy, **tiny_recipe.changes) == 0


@pytest.mark.parametrize(
    ("job", "stage", "changes", "words"),
    [
        ("recipe", "", {"seed": 1}, ["seed = 0", "has 1"]),
        ("pretrain", "pretrain", {"pretrain__epochs": 3}, ["pretrain.epochs = 2", "has 3"]),
        (
            "finetune",
            "scratch",
            {"finetune__batch_size": 12, "model__width": 32},
            ["model.width = 16", "has 32", "1 more"],
        ),
    ],
)
def test_another_config_in_the_same_folder_is_refused(
    tiny_recipe, capsys, job, stage, changes, words
):
    folder = tiny_recipe.folder / stage
    before = snapshot(folder)
    assert run_job(job, folder, **(tiny_recipe.changes | changes)) == 2
    sentence = error_line(capsys)
    assert all(word in sentence for word in [*words, str(folder), "--workdir"]), sentence
    assert snapshot(folder) == before


def test_data_placement_is_bit_exact(tiny_recipe, tmp_path):
    runtime = {"runtime__data_placement": "host", "runtime__steps_per_dispatch": 3}
    assert run_job("finetune", tmp_path, **tiny_recipe.changes, **runtime) == 0
    device = tiny_recipe.folder / "scratch"
    assert (tmp_path / "metrics.jsonl").read_text() == (device / "metrics.jsonl").read_text()
    assert read_checkpoint(tmp_path)[1]["arrays"] == read_checkpoint(device)[1]["arrays"]


def test_missing_or_different_checkpoint_is_refused(tiny_recipe, tmp_path, capsys):
    path = tiny_recipe.folder / "pretrain"
    assert run_job("finetune", tmp_path / "a", finetune__init_from=f"{path}s") == 2
    assert 'did you mean "pretrain"' in error_line(capsys)
    assert run_job("finetune", tmp_path / "b", finetune__init_from=tiny_recipe.folder) == 2
    assert "holds several stages" in error_line(capsys)
    changes = {"finetune__init_from": path, "model__width": 32}
    assert run_job("finetune", tmp_path / "c", **changes) == 2
    sentence = error_line(capsys)
    assert "model.width is 16 there but 32 here" in sentence and str(path) in sentence
    assert not list(tmp_path.rglob("metrics.jsonl"))


def test_pretraining_can_start_from_an_earlier_run(tiny_recipe, tmp_path, capsys):
    """As for more epochs; at a learning rate near zero the networks do not change."""
    earlier = tiny_recipe.folder / "pretrain"
    changes = tiny_recipe.changes | {"pretrain__init_from": earlier, "pretrain__epochs": 1}
    unchanging = {"pretrain__optimizer__base_lr": 1e-30, "pretrain__optimizer__min_lr": 0.0}
    unchanging |= {"pretrain__teacher__momentum": 1.0, "pretrain__optimizer__weight_decay": 0.0}
    unchanging |= {"pretrain__optimizer__weight_decay_end": 0.0}
    assert run_job("pretrain", tmp_path / "more", **changes, **unchanging) == 0
    assert f"restored the networks from {earlier}" in capsys.readouterr().out
    (before, _), (after, _) = read_checkpoint(earlier), read_checkpoint(tmp_path / "more")
    for name, value in before.items():
        if name.startswith(("student.", "teacher.")):
            np.testing.assert_allclose(after[name], value, rtol=0, atol=1e-25, err_msg=name)
    assert after["step"] == 4
    changes["model__width"] = 32
    assert run_job("pretrain", tmp_path / "wider", **changes) == 2
    sentence = error_line(capsys)
    assert f"pretrain.init_from={earlier} holds a different model (model.width is " in sentence
    del changes["model__width"]
    changes["pretrain__head__out_dim"] = 48
    assert run_job("pretrain", tmp_path / "more prototypes", **changes) == 2
    assert f"pretrain.init_from={earlier} does not fit this run: " in error_line(capsys)


def test_backbone_with_missing_or_extra_arrays_is_refused(tiny_recipe, tmp_path):
    params, meta = read_params_and_meta(tiny_recipe.folder / "pretrain")
    options = meta["model"]
    params["surplus"] = params.pop("norm.bias")
    params["cls_token"] = params["cls_token"][..., :8]
    own = {key: meta[key] for key in ("model", "dataset", "class_names", "mean", "std")}
    with CheckpointStore(tmp_path / "checkpoints", keep_best=False) as store:
        store.save(1, {"step": 1}, params, own)
    model = create_model(**(options | {"num_classes": 10}))
    before = get_arrays(model)
    with pytest.raises(UserError) as caught:
        load_backbone(model, str(tmp_path), options)
    sentence = str(caught.value)
    for problem in ("missing norm.bias", "unexpected surplus", "cls_token has shape (1, 1, 8)"):
        assert problem in sentence
    assert "\n" not in sentence
    for name, value in get_arrays(model).items():
        np.testing.assert_array_equal(value, before[name])


def test_divergence_names_the_step_and_keeps_checkpoints(tmp_path, capsys):
    changes = {"finetune__optimizer__name": "sgd", "finetune__optimizer__lr": 1e30}
    assert run_job("finetune", tmp_path, **changes, runtime__checkpoint_every=1) == 2
    sentence = error_line(capsys)
    # The second step's learning rate is huge, so the third step's weights overflow.
    assert "at step 3 (epoch 1)" in sentence and "lower learning rate" in sentence
    assert [row["step"] for row in read_metrics(tmp_path, "train")] == [1, 2, 3]
    assert checkpoint_steps(tmp_path) == [1, 2]
    model = smallvit_jax.load_checkpoint(tmp_path / "checkpoints" / "1")
    assert np.isfinite(np.asarray(model(np.zeros((1, 16, 16, 3), np.float32)))).all()
    assert not (tmp_path / "result.json").exists()


@pytest.mark.parametrize(
    ("job", "changes"),
    [
        (
            "pretrain",
            {
                "runtime__precision": "bfloat16",
                "pretrain__views__local_crops": 0,
                "pretrain__head__batch_norm": True,
                "pretrain__teacher__drop_path": False,
                "pretrain__optimizer__clip": 0.0,
            },
        ),
        (
            "finetune",
            {
                "runtime__precision": "bfloat16",
                "finetune__optimizer__name": "lars",
                "finetune__optimizer__lr": 1.0,
                "finetune__augment__mix": 1.0,
                "finetune__augment__mixup_alpha": 0.0,
            },
        ),
    ],
    ids=["batch norm, no local crops", "lars, only cutmix"],
)
def test_rare_options_and_bfloat16_train(tmp_path, job, changes):
    epochs = {f"{job}__epochs": 2, "pretrain__knn_every": 0}
    assert run_job(job, tmp_path, **epochs, **changes) == 0
    rows = read_metrics(tmp_path, "train")
    assert len(rows) == 12
    assert all(math.isfinite(row["loss"]) and row["gradient_norm"] > 0 for row in rows)
    state, meta = read_checkpoint(tmp_path)
    assert {row["dtype"] for row in meta["arrays"]["params"].values()} == {"float32"}
    if job == "pretrain":
        assert not read_metrics(tmp_path, "knn")
        assert read_json(tmp_path / "result.json")["knn_after"] is None
        moved = "student.projection.linears.0.kernel"
        assert np.abs(state[moved] - state[moved.replace("student", "teacher")]).max() > 0
        statistics = [name for name in state if "_buffers" in name and name.endswith(".mean")]
        assert len(statistics) == 4
        assert all(np.abs(state[name]).max() > 0 for name in statistics)


def test_evaluate_job_matches_the_recipe(tiny_recipe, tmp_path, capsys):
    """Runs the evaluate job by itself on the recipe's checkpoint."""
    checkpoint = tiny_recipe.folder / "finetune"
    changes = tiny_recipe.changes | {"evaluate__checkpoint": checkpoint}
    assert run_job("evaluate", tmp_path, **changes) == 0
    figures = ("test_top1", "test_top5", "test_loss", "knn_top1", "checkpoint_step")
    alone = read_json(tmp_path / "result.json")
    inside = read_json(tiny_recipe.folder / "evaluate" / "result.json")
    assert [alone[k] for k in figures] == [inside[k] for k in figures]
    assert "top-1 accuracy" in capsys.readouterr().out


def test_interrupted_recipe_resumes_at_its_stage(tiny_recipe, tmp_path):
    """A copy without its last stages keeps pre-training and repeats the rest exactly."""
    folder = tmp_path / "copy"
    shutil.copytree(tiny_recipe.folder, folder)
    for stage in ("finetune", "scratch", "evaluate"):
        shutil.rmtree(folder / stage)
    (folder / "result.json").unlink()
    before = snapshot(folder / "pretrain")
    assert run_job("recipe", folder, **tiny_recipe.changes) == 0
    assert snapshot(folder / "pretrain") == before
    for stage in ("finetune", "scratch"):
        lines = (folder / stage / "metrics.jsonl").read_text()
        assert lines == (tiny_recipe.folder / stage / "metrics.jsonl").read_text()
