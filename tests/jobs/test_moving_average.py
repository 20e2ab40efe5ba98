"""Fine-tuning with a moving average of the weights."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax

from smallvit_jax.training.state import TrainState, update_average
from tests.support.tiny_jobs import read_checkpoint, read_json, read_metrics, run_job

DECAY = 0.9
CHANGES = {
    "dataset__labels_per_class": 2,
    "dataset__validation_fraction": 0.2,
    "finetune__batch_size": 16,
    "finetune__ema_decay": DECAY,
    "finetune__drloc__weight": 0.1,  # whose head is not part of the model
    "runtime__checkpoint_every": 1,
}


def test_average_forgets_the_start_and_then_decays():
    arrays = {"a": jnp.full(3, 4.0)}
    state = TrainState.start(arrays, {}, optax.sgd(1.0), jax.tree.map(jnp.copy, arrays))
    expected = 4.0
    for step, value in enumerate((2.0, 1.0, 7.0), 1):
        state = state._replace(step=jnp.int32(step), params={"a": jnp.full(3, value)})
        state = update_average(state, 0.25)
        decay = min(0.25, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
        np.testing.assert_allclose(state.average["a"], expected, rtol=1e-6)


def test_the_average_is_the_model_and_resumes_to_the_bit(tmp_path):
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    assert run_job("finetune", whole, **CHANGES) == 0
    result = read_json(whole / "result.json")
    for split, name in {"test": "test_top1", "test_plain": "plain_test_top1"}.items():
        rows = read_metrics(whole, split)
        assert len(rows) == result["epochs"] and rows[-1]["top1"] == result[name]
    assert read_metrics(whole, "test")[-1]["loss"] != read_metrics(whole, "test_plain")[-1]["loss"]

    saved, _ = read_checkpoint(whole, "params")
    state, _ = read_checkpoint(whole, "state")
    assert not any(name.startswith("drloc.") for name in saved)
    for name, array in saved.items():
        np.testing.assert_array_equal(array, state[f"average.{name}"])
    moved = [n for n in saved if np.any(saved[n] != state.get(f"params.{n}", saved[n]))]
    assert "head.kernel" in moved

    shutil.copytree(whole, resumed)
    (resumed / "result.json").unlink()
    steps = sorted((resumed / "checkpoints").iterdir(), key=lambda folder: int(folder.name))
    assert len(steps) > 1
    shutil.rmtree(steps[-1])
    assert run_job("finetune", resumed, **CHANGES) == 0
    again, _ = read_checkpoint(resumed, "state")
    assert again.keys() == state.keys()
    for name, array in state.items():
        np.testing.assert_array_equal(again[name], array, err_msg=name)
