"""One step of pre-training against the reference, step for step."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from smallvit_jax import pretrain
from smallvit_jax.interop import torch_weights
from smallvit_jax.models import create_model
from smallvit_jax.models.heads import ProjectionHead, ViewNetwork
from smallvit_jax.models.parameters import Functional
from smallvit_jax.training.optimizers import clip_each_tensor, make_optimizer
from tests.golden_formulas import fill, image_batch

OUT_DIM = 64
TEMPERATURES = np.linspace(0.04, 0.07, 10)  # of the teacher, by epoch


@pytest.fixture(scope="module")
def network():
    """The recorded network, with its formula weights."""
    network = ViewNetwork(
        create_model("vit"), ProjectionHead(192, out_dim=OUT_DIM, rngs=nnx.Rngs(0))
    )
    shapes = {k: np.shape(v) for k, v in torch_weights.state_dict(network).items()}
    torch_weights.load_state_dict(network, {k: fill(k, s) for k, s in shapes.items()})
    return network


def recording_optimizer(clip) -> optax.GradientTransformationExtraArgs:
    """AdamW with clipping, whose state begins with the last step's gradients.

    Clipping stands outside so that it may be traced: one program for every golden file.
    """
    keep = optax.GradientTransformation(
        lambda params: jax.tree.map(jnp.zeros_like, params),
        lambda updates, state, params=None: (updates, updates),
    )
    adamw = make_optimizer("adamw", freezable=pretrain.is_last_layer)
    return optax.chain(keep, clip_each_tensor(clip), adamw)


@pytest.fixture(scope="module")
def step(network):
    functional = Functional(network)

    # Unoptimised: it runs for 15 steps only.
    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def step(state, views, schedule, clip):
        return pretrain.update(
            state,
            views,
            None,
            schedule,
            network=functional,
            optimizer=recording_optimizer(clip),
            student_temperature=0.1,
            center_momentum=0.9,
            teacher_drop_path=True,
        )

    return step


def views_of(step: int):
    """The recorded crops: two global and two local views of four images, behind the batch axis."""

    def group(size, letter):
        views = [image_batch(4, size, f"s{step}{letter}{i}") for i in (0, 1)]
        return jnp.asarray(np.stack(views, axis=1).transpose(0, 1, 3, 4, 2))

    return [group(32, "g"), group(16, "l")]


def l2(array) -> float:
    return float(np.linalg.norm(np.asarray(array, np.float64)))


@pytest.mark.parametrize("name", ["frozen", "unfrozen", "freeze_then_train", "clip0.1"])
def test_steps_equal_the_reference(golden, network, step, name):
    recorded = golden(f"trace_ssl_vit_{name}")
    clip = recorded["clip"]
    ours = {key: name for name, key in torch_weights.reference_keys(network).items()}
    state = pretrain.initial_state(Functional(network), recording_optimizer(clip), OUT_DIM)
    for expected in recorded["steps_recorded"]:
        number = expected["global_it"]
        schedule = {
            "learning_rate": expected["lr"],
            "weight_decay": expected["wd"],
            "teacher_momentum": recorded["momentum_schedule"][number],
            "teacher_temperature": TEMPERATURES[expected["epoch"]],
            "frozen": expected["epoch"] < recorded["freeze"],
        }
        state, metrics = step(state, views_of(number), schedule, clip)
        assert int(state.step) == number + 1
        assert float(metrics["loss"]) == pytest.approx(expected["loss"], rel=1e-5)
        for network_name, arrays in (("student", state.student), ("teacher", state.teacher)):
            for key, value in expected[network_name].items():
                where = f"{network_name} {key} after step {number}"
                assert l2(arrays[ours[key]]) == pytest.approx(value["l2"], rel=1e-6), where
        assert l2(state.center) == pytest.approx(expected["center"]["l2"], rel=1e-5)
        gradients = state.optimizer[0]
        for key, norm in expected["grad_norms_before_clip"].items():
            assert l2(gradients[ours[key]]) == pytest.approx(norm, rel=2e-5), (key, number)
        whole = np.sqrt(sum(l2(g) ** 2 for g in gradients.values()))
        assert float(metrics["gradient_norm"]) == pytest.approx(whole, rel=1e-5)
        clipped = sum(l2(g) + 1e-6 > clip for g in gradients.values())
        assert clipped == expected["n_clipped_params"]

    counts = adam_counts(state.optimizer[-1])
    for key, count in recorded["adam_step_count_after"].items():
        name = ours[key]
        expected = 0 if count is None else count
        assert counts["freezable" if pretrain.is_last_layer(name) else "moving"] == expected


def adam_counts(optimizer_state) -> dict[str, int]:
    """The step counts of the two groups of parameters."""
    return {
        group: int(optax.tree.get(inner, "count"))
        for group, inner in optimizer_state.inner_states.items()
    }


def test_clipping_stands_before_the_rule_in_both_groups():
    params = {"a": jnp.zeros((2, 2)), "projection.last_layer.weight_v": jnp.zeros((2, 2))}
    optimizer = make_optimizer("sgd", clip=3.0, freezable=pretrain.is_last_layer)
    updates, _ = optimizer.update(
        jax.tree.map(lambda p: jnp.full_like(p, 100.0), params),
        optimizer.init(params),
        params,
        learning_rate=1.0,
        weight_decay=0.0,
        frozen=False,
    )
    assert [l2(u) for u in updates.values()] == pytest.approx([3.0, 3.0])
