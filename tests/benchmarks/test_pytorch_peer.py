"""Starting from our weights, the PyTorch peer gets the same losses and weights."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from benchmarks.training_steps import make_steps
from smallvit_jax.interop import torch_weights
from smallvit_jax.models import create_model
from smallvit_jax.models.heads import ProjectionHead, ViewNetwork
from smallvit_jax.models.parameters import set_arrays
from tests.support.reference_traces import quick_jit

torch = pytest.importorskip("torch")
peer = pytest.importorskip("benchmarks.pytorch_peer")
MODELS = pytest.importorskip("benchmarks.pytorch_models").MODELS

BATCH = 4
SMALL = {"heads": 2, "drop_path": 0.0, "init": "fan_in"}
TINY = {
    "vit": {"width": 24, "depth": 3, **SMALL},
    "swin": {"width": 12, **SMALL},
    "cait": {"width": 24, "depth": 2, **SMALL},
}


# The training steps of Swin and CaiT take a minute to compile.
STEPS = ["vit", *(pytest.param(name, marks=pytest.mark.slow) for name in ("swin", "cait"))]


def as_torch(state_dict: dict[str, np.ndarray]) -> dict:
    return {name: torch.tensor(value) for name, value in state_dict.items()}


def channels_first(views) -> torch.Tensor:
    """[batch, views, side, side, 3] → [views x batch, 3, side, side]."""
    array = np.asarray(views).transpose(1, 0, 4, 2, 3)
    return torch.tensor(array.reshape(-1, *array.shape[2:]))


def tiny_peer(family, **options):
    return MODELS[family](**{k: v for k, v in TINY[family].items() if k != "init"}, **options)


@pytest.mark.parametrize("family", STEPS)
def test_two_steps_of_pretraining_agree(family):
    steps = make_steps(family, "pretrain", BATCH, "float32", **TINY[family])
    backbone = create_model(family, image_size=32, **TINY[family])
    width = backbone.num_features
    module = ViewNetwork(backbone, ProjectionHead(width, init="fan_in", rngs=nnx.Rngs(0)))
    set_arrays(module, steps.state.student | steps.state.student_buffers)
    networks = [peer.MultiCrop(tiny_peer(family), peer.Head(width)) for _ in range(2)]
    networks[0].load_state_dict(as_torch(torch_weights.state_dict(module)))
    theirs = peer.Pretraining(*networks)
    schedule = steps.schedule
    for group in theirs.optimizer.param_groups:
        group["lr"] = float(schedule["learning_rate"])
        group["weight_decay"] *= float(schedule["weight_decay"]) / 0.1

    update = quick_jit(steps.update)
    state, views = steps.state, [channels_first(group) for group in steps.ready]
    for _ in range(2):
        state, metrics = update(state, steps.ready, None, schedule)
        loss = theirs.step(
            views,
            temperature=float(schedule["teacher_temperature"]),
            momentum=float(schedule["teacher_momentum"]),
        )
        assert float(metrics["loss"]) == pytest.approx(float(loss), rel=1e-5)
    np.testing.assert_allclose(state.center, theirs.center, atol=1e-5)
    for arrays, network in ((state.student, networks[0]), (state.teacher, networks[1])):
        ours = np.linalg.norm([jnp.linalg.norm(value) for value in arrays.values()])
        norms = [p.detach().norm() for n, p in network.named_parameters() if "weight_g" not in n]
        assert ours == pytest.approx(np.linalg.norm(norms), rel=1e-5)


@pytest.mark.parametrize("family", STEPS)
def test_two_steps_of_finetuning_agree(family):
    steps = make_steps(family, "finetune", BATCH, "float32", **TINY[family])
    model = create_model(family, image_size=32, num_classes=10, **TINY[family])
    set_arrays(model, steps.state.params)
    network = tiny_peer(family, num_classes=10)
    network.load_state_dict(as_torch(torch_weights.state_dict(model)))
    theirs = peer.Finetuning(network)
    theirs.optimizer.param_groups[0]["lr"] = float(steps.schedule["learning_rate"])
    images, labels, others, share = steps.ready
    inputs = (channels_first(images[:, None]), *map(to_long, (labels, others)), float(share))

    update, state = quick_jit(steps.update), steps.state
    for _ in range(2):
        state, metrics = update(state, steps.ready, None, steps.schedule)
        assert float(metrics["loss"]) == pytest.approx(float(theirs.step(*inputs)), rel=1e-5)


def to_long(labels) -> torch.Tensor:
    return torch.tensor(np.asarray(labels)).long()


@pytest.mark.parametrize("family", TINY)
def test_features_agree_at_both_sizes(family):
    model = create_model(family, image_size=32, **TINY[family])
    network = tiny_peer(family)
    network.load_state_dict(as_torch(torch_weights.state_dict(model)))
    for side in (32, 16):
        images = np.random.default_rng(side).standard_normal((BATCH, side, side, 3), np.float32)
        with torch.no_grad():
            theirs = network(channels_first(images[:, None]))
        np.testing.assert_allclose(quick_jit(model.features)(images), theirs, atol=1e-5)
