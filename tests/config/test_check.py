"""Valid field values, also for configs made in Python."""

import pytest

from smallvit_jax.config import default_config
from smallvit_jax.config.check import validate
from smallvit_jax.config.jobs import JOBS
from smallvit_jax.config.tree import FIELD_AT, set_value
from smallvit_jax.errors import UserError


def error_of(**fields):
    config = default_config()
    for path, value in fields.items():
        set_value(config, path.replace("__", "."), value)
    with pytest.raises(UserError) as caught:
        validate(config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_defaults_are_valid():
    validate(default_config())


def test_every_field_has_a_rule_or_needs_none():
    paths = ("init_from", "checkpoint", "source", "input", "beside", "boxes", "root", "runs")
    # These are checked by the model, the table of variant parts and the table of hardware.
    free = {"attention.block", "compare.variants", "sweep.variants", "compile_check.targets"}
    free |= {path for path, field in FIELD_AT.items() if field.type is bool}
    free |= {p for p, f in FIELD_AT.items() if f.default == "" and p.split(".")[-1] in paths}
    free |= {"runtime.compilation_cache", "evaluate.corruptions.cache"}
    assert {path for path, field in FIELD_AT.items() if field.rule} == set(FIELD_AT) - free


def test_jobs_use_and_require_existing_fields():
    for job in JOBS.values():
        for path in job.uses:
            assert any(f"{field}.".startswith(f"{path}." if path else "") for field in FIELD_AT)
        assert {required.path for required in job.required} <= set(FIELD_AT)


@pytest.mark.parametrize("path", [path for path, field in FIELD_AT.items() if field.rule])
def test_invalid_values_are_refused(path):
    field = FIELD_AT[path]
    if field.type is str:
        wrong = ["", "no such name"]
    elif field.type is tuple:
        length = len(field.default or (0, 0))
        wrong = [(), (-1.0,) * length, (float("nan"),) * length, ("a",) * length]
        if field.length is not None:
            wrong.append((0.1,) * (length + 1))
    else:
        wrong = [-1.0, float("nan"), float("inf")] if field.type is float else [-1, True]
        if not field.optional:
            wrong.append(None)
    for value in wrong:
        config = default_config()
        set_value(config, path, value)
        with pytest.raises(UserError, match=path.replace(".", r"\.")):
            validate(config)


@pytest.mark.parametrize(
    ("path", "good", "bad"),
    [
        ("seed", [0, 2**32 - 1], [2**32]),
        ("dataset.train_fraction", [1e-6, 1.0], [0.0, 1.01]),
        ("dataset.validation_fraction", [0.0, 0.5], [1.0]),
        ("model.drop_path", [0.0, 0.9], [1.0]),
        ("pretrain.epochs", [1], [0]),
        ("pretrain.views.local_crops", [0], [-1]),
        ("pretrain.views.flip", [0.0, 1.0], [1.01]),
        ("pretrain.views.global_scale", [(1.0, 1.0), (0.1, 0.2)], [(0.0, 1.0), (0.5, 0.4)]),
        ("pretrain.views.jitter_strength", [(0.0, 2.0, 0.0, 0.5)], [(0.4, 0.4, 0.2, 0.6)]),
        ("pretrain.teacher.temperature", [0.01], [0.0]),
        ("finetune.augment.erase_area", [(0.5, 1.0)], [(0.5, 1.1)]),
        ("finetune.augment.erase_aspect", [(0.3, 3.3)], [(0.0, 1.0)]),
        ("finetune.optimizer.clip", [0.0], [-0.1]),
        ("runtime.profile", [0], [-1]),
    ],
)
def test_limits(path, good, bad):
    for value in good:
        config = default_config()
        set_value(config, path, value)
        validate(config)
    for value in bad:
        assert path in error_of(**{path: value})


def test_error_messages():
    assert error_of(pretrain__epochs=0) == "pretrain.epochs is 0, but must be at least 1"
    assert error_of(finetune__optimizer__name="adam") == (
        'finetune.optimizer.name is "adam", but must be one of adamw, sgd, lars '
        '(did you mean "adamw"?)'
    )
    assert error_of(pretrain__views__blur=(0.5,)) == (
        "pretrain.views.blur is (0.5,), but must have 3 numbers like (1.0, 0.1, 0.5)"
    )
    assert error_of(seed=None) == "seed is none, but must be a whole number"


def test_contradicting_fields_are_refused():
    assert "its own pre-training" in error_of(finetune__init_from="x")
    assert "needs evaluate.checkpoint" in error_of(job="evaluate")
    mix = {"finetune__augment__mixup_alpha": 0.0, "finetune__augment__cutmix_alpha": 0.0}
    assert "both 0" in error_of(**mix)
    config = default_config()
    config.finetune.augment.update(mixup_alpha=0.0, cutmix_alpha=0.0, mix=0.0)
    validate(config)


def test_own_images_need_their_folder():
    folder = {"dataset__name": "folder"}
    for job, fields in {
        "finetune": {},
        "evaluate": {"evaluate__checkpoint": "x"},
        "attention": {"attention__checkpoint": "x"},
    }.items():
        assert "which needs dataset.root" in error_of(job=job, **folder, **fields)
    config = default_config()
    config.job, config.dataset.name = "attention", "folder"
    config.attention.update(checkpoint="x", input="pictures")
    validate(config)


def test_unknown_and_missing_fields_are_refused():
    config = default_config().unlock()
    config.finetune.epoch = 3
    with pytest.raises(UserError, match=r'no field "finetune.epoch" \(did you mean "finetune.epo'):
        validate(config)
    config = default_config().unlock()
    del config.finetune.epochs
    with pytest.raises(UserError, match=r'lacks the field "finetune\.epochs"'):
        validate(config)
