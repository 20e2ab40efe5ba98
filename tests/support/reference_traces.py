"""Recorded training runs of the reference: their inputs, and our differences from them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from smallvit_jax.augment import mixing
from smallvit_jax.interop import torch_weights
from smallvit_jax.models.heads import ProjectionHead, ViewNetwork
from smallvit_jax.models.parameters import Functional
from smallvit_jax.objectives import dino, supervised
from smallvit_jax.training.optimizers import clip_each_tensor, make_optimizer
from tests.support.differences import Differences
from tests.support.golden_formulas import fill, image_batch

OUT_DIM = 64
TEMPERATURES = np.linspace(0.04, 0.07, 10)  # teacher temperature by epoch
LABELS = jnp.asarray([1, 4, 7, 0])
PERMUTATION = jnp.asarray([2, 0, 3, 1])
LAM, CUT_CENTER = 0.3, (20, 6)
# For tests: recordings are a few steps long, so compiling takes most of the time.
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def l2(x) -> float:
    return float(np.linalg.norm(np.asarray(x, np.float64)))


def fill_weights(model: nnx.Module) -> None:
    """Sets every weight from its formula, in place."""
    shapes = {k: v.shape for k, v in torch_weights.state_dict(model).items()}
    torch_weights.load_state_dict(model, {k: fill(k, s) for k, s in shapes.items()})


def view_network(backbone: nnx.Module) -> ViewNetwork:
    """The backbone with the recorded projection head, both with formula weights."""
    head = ProjectionHead(backbone.num_features, out_dim=OUT_DIM, rngs=nnx.Rngs(0))
    network = ViewNetwork(backbone, head)
    fill_weights(network)
    return network


_keep_gradients = optax.GradientTransformation(
    lambda params: jax.tree.map(jnp.zeros_like, params),
    lambda updates, state, params=None: (updates, updates),
)


def pretraining_optimizer(clip) -> optax.GradientTransformationExtraArgs:
    """AdamW with clipping, whose state starts with the last step's gradients.

    Clipping is separate so that its limit can be traced: one program serves every golden file.
    """
    adamw = make_optimizer("adamw", freezable=dino.is_last_layer)
    return optax.chain(_keep_gradients, clip_each_tensor(clip), adamw)


def make_pretraining_step(network: ViewNetwork, jit=quick_jit):
    """One compiled step for all recordings of this network, without drop path."""
    functional = Functional(network)

    @jit
    def step(state, views, schedule, clip):
        return dino.update(
            state,
            views,
            None,
            schedule,
            network=functional,
            optimizer=pretraining_optimizer(clip),
            student_temperature=0.1,
            center_momentum=0.9,
            teacher_drop_path=True,
        )

    return step


def recorded_views(step: int):
    """The recorded crops: two global and two local views of four images, on axis 1."""

    def group(size, letter):
        views = [image_batch(4, size, f"s{step}{letter}{i}") for i in (0, 1)]
        return jnp.asarray(np.stack(views, axis=1).transpose(0, 1, 3, 4, 2))

    return [group(32, "g"), group(16, "l")]


# How far float32 may be from the recording; all limits are relative except for counts.
PRETRAINING_LIMITS = {
    "loss": 1e-5,
    "loss, float64": 1e-5,
    "parameters": 1e-6,
    "center": 1e-5,
    "gradients": 2e-5,
    "reported gradient norm": 1e-5,
    "number of clipped gradients": 0,
    "Adam's step counts": 0,
}


def pretraining_differences(recorded, network: ViewNetwork, step) -> Differences:
    """Repeats the recorded steps; tensors are compared by their L2 norms."""
    found = Differences()
    clip = recorded["clip"]
    ours = {key: name for name, key in torch_weights.reference_keys(network).items()}
    state = dino.initial_state(Functional(network), pretraining_optimizer(clip), OUT_DIM)
    for expected, loss in zip(recorded["steps_recorded"], recorded["losses_float64"], strict=True):
        number = expected["global_it"]
        where = f"at step {number}"
        schedule = {
            "learning_rate": expected["lr"],
            "weight_decay": expected["wd"],
            "teacher_momentum": recorded["momentum_schedule"][number],
            "teacher_temperature": TEMPERATURES[expected["epoch"]],
            "frozen": expected["epoch"] < recorded["freeze"],
        }
        state, metrics = step(state, recorded_views(number), schedule, clip)
        assert int(state.step) == number + 1
        found.relative("loss", metrics["loss"], expected["loss"], where)
        found.relative("loss, float64", metrics["loss"], loss, where)
        for network_name, arrays in (("student", state.student), ("teacher", state.teacher)):
            for key, value in expected[network_name].items():
                place = f"in the {network_name}'s {key} {where}"
                found.relative("parameters", l2(arrays[ours[key]]), value["l2"], place)
        found.relative("center", l2(state.center), expected["center"]["l2"], where)
        gradients = state.optimizer[0]
        for key, norm in expected["grad_norms_before_clip"].items():
            found.relative("gradients", l2(gradients[ours[key]]), norm, f"in {key} {where}")
        whole = np.sqrt(sum(l2(g) ** 2 for g in gradients.values()))
        found.relative("reported gradient norm", metrics["gradient_norm"], whole, where)
        clipped = sum(l2(g) + 1e-6 > clip for g in gradients.values())
        expected_clipped = expected["n_clipped_params"]
        found.absolute("number of clipped gradients", clipped, expected_clipped, where)

    counts = _adam_counts(state.optimizer[-1])
    for key, count in recorded["adam_step_count_after"].items():
        group = "freezable" if dino.is_last_layer(ours[key]) else "moving"
        found.absolute("Adam's step counts", counts[group], count or 0, f"of {key}")
    return found


def _adam_counts(optimizer_state) -> dict[str, int]:
    """The step counts of the two parameter groups."""
    return {
        group: int(optax.tree.get(inner, "count"))
        for group, inner in optimizer_state.inner_states.items()
    }


def recorded_batch(step: int, kind: str):
    """A fine-tuning step's images after mixing, and the share of `LABELS` in the targets."""
    images = jnp.asarray(image_batch(4, 32, f"ft{step}").transpose(0, 2, 3, 1))
    if kind == "mixup":
        return mixing.mixup(images, PERMUTATION, LAM), LAM
    if kind == "cutmix":
        box, share = mixing.cut_box(LAM, *CUT_CENTER, 32, 32)
        return mixing.cutmix(images, PERMUTATION, box), float(share)
    return images, 1.0


# As above. After Adam's first step, the recorded float32 losses themselves differ from the recorded
# float64 ones by up to 7.5e-6.
FINETUNING_LIMITS = {
    "mixed images": 1e-6,
    "share of the labels": 1e-6,
    "loss": 1e-5,
    "loss, float64": 1e-5,
    "accuracy": 1e-6,
    "gradients": 1e-4,
    "parameters": 1e-6,
}


def finetuning_differences(recorded, network: nnx.Module, jit=quick_jit) -> Differences:
    """Repeats the recorded steps from formula weights; tensors are compared by their L2 norms."""
    found = Differences()
    fill_weights(network)
    ours = {key: name for name, key in torch_weights.reference_keys(network).items()}
    model = Functional(network)
    optimizer = optax.chain(_keep_gradients, make_optimizer("adamw", decay_vectors=True))
    step = jit(
        functools.partial(supervised.update, model=model, optimizer=optimizer, label_smoothing=0.1)
    )
    state = supervised.initial_state(model, optimizer)
    for expected, loss in zip(recorded["steps"], recorded["losses_float64"], strict=True):
        number = expected["step"]
        where = f"at step {number}"
        images, share = recorded_batch(number, expected["kind"])
        found.relative("mixed images", l2(images), expected["input_after_mix"]["l2"], where)
        if expected["lam_used"] is not None:
            found.relative("share of the labels", share, expected["lam_used"], where)
        other_labels = LABELS if expected["kind"] == "none" else LABELS[PERMUTATION]
        schedule = {"learning_rate": expected["lr_used"], "weight_decay": 0.05}
        state, metrics = step(
            state, images, LABELS, other_labels, jnp.float32(share), None, schedule
        )
        found.relative("loss", metrics["loss"], expected["loss"], where)
        found.relative("loss, float64", metrics["loss"], loss, where)
        logits = np.reshape(expected["logits"]["values"], expected["logits"]["shape"])
        expected_accuracy = (logits.argmax(axis=1) == LABELS).mean() * 100
        found.absolute("accuracy", metrics["accuracy"], expected_accuracy, where)
        gradients = state.optimizer[0]
        for key, value in expected["grads"].items():
            place = f"in {key} {where}"
            found.relative("gradients", l2(gradients[ours[key]]), value["l2"], place)
        for key, value in expected["params_after"].items():
            place = f"in {key} {where}"
            found.relative("parameters", l2(state.params[ours[key]]), value["l2"], place)
    assert int(state.step) == len(recorded["steps"])
    return found
