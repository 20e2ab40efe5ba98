"""The files in `configs/`: each loads, is valid, and its docstring's command works."""

import ast
import pathlib
import re
import shlex

import pytest

from smallvit_jax.command.config_files import load_config
from smallvit_jax.command.flags import read_flags, resolve
from smallvit_jax.config import default_config
from smallvit_jax.config.check import validate
from smallvit_jax.config.choices import MODELS
from smallvit_jax.config.presets import DATASET_NAMES
from smallvit_jax.config.tree import DEFAULTS, flatten
from smallvit_jax.data.datasets import get_dataset
from smallvit_jax.errors import UserError
from smallvit_jax.plans.data_and_model import model_options
from smallvit_jax.plans.finetuning import make_schedule

ROOT = pathlib.Path(__file__).parents[2]
FILES = sorted((ROOT / "configs").glob("*.py"))


@pytest.fixture(autouse=True)
def _in_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


def changes(config):
    """Returns the fields that differ from the defaults."""
    return {path: value for path, value in flatten(config).items() if value != DEFAULTS[path]}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_docstring_gives_a_working_command_and_estimates(file):
    text = ast.get_docstring(ast.parse(file.read_text()))
    assert "Expected time" in text and "Expected accuracy" in text
    command = re.search(r"python -m smallvit_jax\.main((?:.*\\\n)*.*)", text)[1]
    flags = read_flags(shlex.split(command.replace("\\\n", " ")))
    assert flags.config.partition(":")[0] == f"configs/{file.name}"
    config, workdir, _ = resolve(flags)
    validate(config)
    assert workdir is None if config.job == "advise" else workdir.parts[0] == "runs"
    others = {
        **dict.fromkeys(("quickstart", "own_images", "small_data"), "recipe"),
        **dict.fromkeys(("conv_stem", "convnets", "structured_init"), "finetune"),
    }
    assert config.job == others.get(file.stem, file.stem)


@pytest.mark.parametrize("job", ["recipe", "pretrain", "finetune"])
def test_arguments_change_only_model_and_dataset(job):
    for model in MODELS:
        for dataset in DATASET_NAMES:
            config = load_config(f"configs/{job}.py:{model},{dataset}")
            assert (config.job, config.model.name, config.dataset.name) == (job, model, dataset)
            assert set(changes(config)) <= {"job", "model.name", "dataset.name"}
    assert changes(load_config(f"configs/{job}.py:vit, cifar10")) == changes(
        load_config(f"configs/{job}.py")
    )


def test_convnets_have_their_papers_recipe():
    for model, decay, warmup in (
        ("resnet18", 5e-4, 0),
        ("resnet56", 1e-4, 0),
        ("resnet110", 1e-4, 1),
        ("efficientnet_b0", 5e-4, 0),
    ):
        config = load_config(f"configs/convnets.py:{model},cifar10")
        validate(config)
        finetune = config.finetune
        rows = make_schedule(config, steps_per_epoch=390)
        assert len(rows["learning_rate"]) == 200 * 390 and set(rows["weight_decay"]) == {decay}
        assert rows["learning_rate"][warmup * 390] == pytest.approx(0.1)
        assert rows["learning_rate"][-1] < 1e-6
        assert (finetune.optimizer.name, finetune.batch_size) == ("sgd", 128)
        assert (finetune.augment.policy, finetune.augment.crop_padding) == ("none", None)
        assert finetune.augment.erase == finetune.augment.mix == finetune.label_smoothing == 0
    with pytest.raises(UserError, match="not for vit"):
        load_config("configs/convnets.py:vit,cifar10")


def test_evaluate_takes_a_dataset():
    config = load_config("configs/evaluate.py:digits")
    assert changes(config) == {"job": "evaluate", "dataset.name": "digits"}


def test_quickstart_explains_every_change():
    source = (ROOT / "configs/quickstart.py").read_text()
    assignments = re.findall(r"^    (?:config|pretrain|finetune)\..*", source, re.MULTILINE)
    unexplained = [line.strip() for line in assignments if "#" not in line]
    assert unexplained == ['config.job = "recipe"']
    config = load_config("configs/quickstart.py")
    validate(config)
    assert config.dataset.name == "digits" and config.recipe.from_scratch
    # Twenty labeled images must fill a batch, and no schedule may outlast its run.
    assert config.finetune.batch_size <= 10 * config.dataset.labels_per_class
    assert config.pretrain.optimizer.warmup_epochs < config.pretrain.epochs
    assert config.model.width % config.model.heads == 0


def test_defaults_equal_the_reference():
    config = default_config()
    pretrain, finetune = config.pretrain, config.finetune
    assert pretrain.optimizer.base_lr * pretrain.batch_size / 256 == pytest.approx(2e-4)
    assert (pretrain.epochs, pretrain.optimizer.warmup_epochs) == (200, 30)
    assert (pretrain.optimizer.weight_decay, pretrain.optimizer.weight_decay_end) == (0.04, 0.4)
    assert (pretrain.optimizer.clip, pretrain.freeze_last_layer_epochs) == (3.0, 1)
    assert (pretrain.teacher.momentum, pretrain.teacher.center_momentum) == (0.996, 0.9)
    assert (pretrain.teacher.warmup_temperature, pretrain.teacher.temperature) == (0.04, 0.07)
    assert (pretrain.head.hidden_dim, pretrain.head.bottleneck_dim) == (512, 256)
    assert (pretrain.head.out_dim, pretrain.views.local_crops) == (1024, 8)
    # 50,000 images, 3 passes, batches of 256, the last one dropped: 585 steps per epoch.
    assert 50_000 * finetune.passes_per_epoch // finetune.batch_size == 585
    assert (finetune.optimizer.lr, finetune.optimizer.weight_decay) == (1e-3, 0.05)
    assert (finetune.epochs, finetune.optimizer.warmup_epochs) == (100, 10)
    assert (finetune.augment.mix, finetune.augment.erase) == (0.5, 0.25)
    assert finetune.label_smoothing == 0.1


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("tiny,cifar10,impulse3", {"patch_size": 2, "depth": 12, "heads": 3, "mlp_ratio": 4.0}),
        ("tiny,tiny_imagenet,mimetic", {"patch_size": 4, "depth": 12}),
        ("tiny,cars,impulse5", {"patch_size": 16}),
        ("small,cifar10,reference", {"patch_size": 4, "depth": 9, "heads": 12, "mlp_ratio": 2.0}),
    ],
)
def test_structured_init_takes_size_dataset_and_init(argument, expected):
    config = load_config(f"configs/structured_init.py:{argument}")
    validate(config)
    options = model_options(config, get_dataset(config.dataset.name))
    expected |= {"width": 192, "pool": "mean", "pos_embed": "sincos", "drop_path": 0.0}
    assert options.items() >= expected.items()
    assert options["init"] == argument.split(",")[2]
    finetune = config.finetune
    assert (finetune.epochs, finetune.batch_size, finetune.passes_per_epoch) == (200, 512, 1)
    assert (finetune.optimizer.eps, finetune.optimizer.clip_global) == (1e-3, 3.0)
    assert not finetune.optimizer.decay_vectors


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("tiny,cifar10", "must be SIZE,DATASET,INIT"),
        ("tinny,cifar10,impulse3", 'unknown SIZE "tinny" .did you mean "tiny"'),
        ("tiny,cifar10,impuls3", 'unknown INIT "impuls3" .did you mean "impulse3"'),
        ("tiny,cifar,impulse3", 'no dataset "cifar"'),
    ],
)
def test_structured_init_explains_wrong_arguments(argument, words):
    with pytest.raises(UserError, match=words):
        load_config(f"configs/structured_init.py:{argument}")
