"""Linear probe: the accuracy of a linear classifier on frozen features."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float, Int

from smallvit_jax.data.batches import BatchOrder
from smallvit_jax.data.subsets import stratified_order

HELD_OUT = 0.1  # fraction of the training features that chooses the learning rate
BATCH_SIZE = 256
INITIAL_STD = 0.01

Features = Float[np.ndarray, "count width"]
Labels = Int[np.ndarray, " count"]


def linear_probe(
    train: Features,
    train_labels: Labels,
    test: Features,
    test_labels: Labels,
    *,
    num_classes: int,
    epochs: int = 100,
    learning_rates: Sequence[float] = (0.001, 0.003, 0.01, 0.03, 0.1),
    seed: int = 0,
) -> dict[str, Any]:
    """Trains a linear classifier for each learning rate and returns accuracies in percent.

    DINO's recipe (facebookresearch/dino, eval_linear.py): SGD with momentum 0.9, no weight decay,
    learning rate per 256 images with cosine decay to 0, weights from N(0, 0.01²). Unlike in DINO,
    images are not augmented, features are standardized, so that one sweep suits every model family,
    and the learning rate is chosen on a stratified tenth of the training features, not on the test
    set. `top1` is the test accuracy at the chosen learning rate.
    """
    order = stratified_order(train_labels, seed)
    held_out = max(1, round(HELD_OUT * len(order)))
    parts = {"train": order[held_out:], "validation": order[:held_out]}
    mean, std = train[parts["train"]].mean(axis=0), train[parts["train"]].std(axis=0)
    train, test = ((x - mean) / np.maximum(std, 1e-6) for x in (train, test))
    classifiers = _train(
        jnp.asarray(train[parts["train"]]),
        jnp.asarray(train_labels[parts["train"]]),
        num_classes,
        epochs,
        jnp.asarray(learning_rates),
        seed,
    )
    judged = {
        "validation": (train[parts["validation"]], train_labels[parts["validation"]]),
        "test": (test, test_labels),
    }
    accuracies = {name: _accuracies(classifiers, *part) for name, part in judged.items()}
    sweep = [
        {"learning_rate": rate, "validation_top1": validation, "test_top1": on_test}
        for rate, validation, on_test in zip(learning_rates, *accuracies.values(), strict=True)
    ]
    best = max(sweep, key=lambda row: row["validation_top1"])
    return {"top1": best["test_top1"], "learning_rate": best["learning_rate"], "sweep": sweep}


def _train(features, labels, num_classes: int, epochs: int, learning_rates, seed: int):
    """Trains all rates at once: weights [rates, width, classes] and biases [rates, classes]."""
    batch = min(BATCH_SIZE, len(labels))
    order = BatchOrder(len(labels), batch, seed)
    steps = epochs * order.steps_per_epoch
    rates = learning_rates * batch / 256
    optimizer = optax.sgd(1.0, momentum=0.9)  # rate 1, as the schedule scales the updates
    shape = (len(rates), features.shape[1], num_classes)
    weights = INITIAL_STD * jax.random.normal(jax.random.key(seed), shape[1:])
    classifiers = (jnp.broadcast_to(weights, shape), jnp.zeros((shape[0], num_classes)))

    def loss_of(classifiers, x, y):
        logits = _logits(classifiers, x)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, y[None])
        return losses.mean(axis=1).sum()  # the classifiers are independent

    @jax.jit
    def train(classifiers, features, labels, indices):
        def step(state, now):
            classifiers, momentum = state
            rows, progress = now
            gradients = jax.grad(loss_of)(classifiers, features[rows], labels[rows])
            updates, momentum = optimizer.update(gradients, momentum)
            factor = rates * 0.5 * (1 + jnp.cos(jnp.pi * progress))
            updates = jax.tree.map(lambda u: u * factor.reshape(-1, *(1,) * (u.ndim - 1)), updates)
            return (optax.apply_updates(classifiers, updates), momentum), None

        progress = jnp.arange(steps) / steps
        state = (classifiers, optimizer.init(classifiers))
        return jax.lax.scan(step, state, (indices, progress))[0][0]

    return train(classifiers, features, labels, order.block(0, steps))


def _logits(classifiers, features):
    weights, biases = classifiers
    products = jnp.einsum("nd,rdc->rnc", features, weights, precision="highest")
    return products + biases[:, None]


def _accuracies(classifiers, features: Features, labels: Labels) -> list[float]:
    predicted = np.asarray(jax.jit(_logits)(classifiers, features)).argmax(axis=-1)
    return ((predicted == labels).mean(axis=1) * 100).tolist()
