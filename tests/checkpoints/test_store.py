"""Checkpoints: bit-exact round trips, which steps are kept, which path means which step."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smallvit_jax.checkpoints.store import CheckpointStore, read_params_and_meta
from smallvit_jax.errors import UserError
from tests.checkpoints.cases import (
    bits,
    flip_stored_array,
    make_state,
    params_of,
    save_steps,
)


def test_round_trip_is_bit_exact(tmp_path):
    state = make_state()
    with CheckpointStore(tmp_path, keep_best=False) as store:
        assert store.latest_step() is None
        assert store.restore(state) is None
        store.save(3, state, params_of(state), {"model": {"name": "vit", "scale": (0.4, 1.0)}})
    template = make_state(0, seed=5)
    with CheckpointStore(tmp_path, keep_best=False) as store:
        assert store.latest_step() == 3
        step, restored = store.restore(template)
    assert step == 3
    assert bits(restored) == bits(state)
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    assert [type(x) for x in restored.extra["list"]] == [int, float, bool]
    assert restored.extra["weak"].weak_type and not restored.step.weak_type
    assert isinstance(restored.extra["host"], np.ndarray)


def test_params_and_meta_need_no_state(tmp_path):
    state = make_state()
    with CheckpointStore(tmp_path / "pretrain/checkpoints", keep_best=False) as store:
        store.save(3, state, params_of(state), {"classes": ["cat", "dog"], "mean": (0.1, 0.2)})
    shutil.rmtree(tmp_path / "pretrain/checkpoints/3/state")
    for path in ("pretrain", "pretrain/checkpoints", "pretrain/checkpoints/3"):
        params, meta = read_params_and_meta(tmp_path / path)
        assert bits(params) == bits(params_of(state))
        assert all(type(array) is np.ndarray for array in params.values())
    assert meta["classes"] == ["cat", "dog"] and meta["mean"] == [0.1, 0.2]
    assert meta["step"] == 3 and meta["format_version"] == 1
    environment = meta["environment"]
    assert environment["versions"]["jax"] == jax.__version__
    assert environment["device_count"] == jax.device_count()
    assert environment["threads"] >= 1
    assert len(meta["arrays"]["params"]["blocks.0.kernel"]["digest"]) == 32


def test_shape_dtype_structs_are_enough(tmp_path):
    state = make_state().weights
    with CheckpointStore(tmp_path, keep_best=False) as store:
        store.save(1, state, state, {})
        _, restored = store.restore(jax.eval_shape(lambda: state))
    assert bits(restored) == bits(state)


def test_buffers_can_be_donated_once_save_returns(tmp_path):
    wipe = jax.jit(lambda x: x * 0 - 1, donate_argnums=0)
    state = {"w": jnp.arange(2_000_000, dtype=jnp.float32)}
    before = np.array(state["w"])
    with CheckpointStore(tmp_path, keep_best=False) as store:
        store.save(1, state, {}, {})
        for _ in range(3):  # while the background write is in progress
            state = {"w": wipe(state["w"])}
        jax.block_until_ready(state)
        _, restored = store.restore(state)
        np.testing.assert_array_equal(restored["w"], before)
        moved = wipe(restored["w"])  # restored buffers can be donated as well
        _, again = store.restore(state)
    np.testing.assert_array_equal(again["w"], before)
    np.testing.assert_array_equal(moved, -np.ones_like(before))


def test_keeps_the_newest_and_best_steps(tmp_path):
    weights = {"w": jnp.ones(3)}
    accuracy = {1: 0.5, 2: 0.8, 3: float("nan"), 4: 0.1}
    with CheckpointStore(tmp_path, keep_best=True) as store:
        for step, value in accuracy.items():
            store.save(step, weights, weights, {}, {"accuracy": value})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["2", "3", "4"]
    with CheckpointStore(tmp_path, keep_best=True) as store:  # remembers the best when reopened
        store.save(5, weights, weights, {}, {"accuracy": 0.8 - 1e-9})
        store.save(6, weights, weights, {})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["2", "5", "6"]
    assert read_params_and_meta(tmp_path, "best")[1]["step"] == 2
    assert read_params_and_meta(tmp_path, "latest")[1]["step"] == 6


def test_keeps_two_steps_without_a_metric(tmp_path):
    save_steps(tmp_path, (1, 2, 3, 4))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["3", "4"]
    with pytest.raises(UserError, match="held-out accuracy"):
        read_params_and_meta(tmp_path, "best")


def test_mismatched_template_is_refused_without_renaming(tmp_path):
    save_steps(tmp_path, (1,))
    state = make_state()
    other = state._replace(
        weights={"new": jnp.ones(2), **state.weights} | {"blocks.3.kernel": jnp.ones((5, 8))},
        extra=state.extra | {"bfloat16": jnp.zeros((3, 2), jnp.float32)},
    )
    with CheckpointStore(tmp_path, keep_best=False) as store:
        with pytest.raises(UserError) as error:
            store.restore(other)
        message = str(error.value)
        assert "weights.new is missing" in message
        assert "weights.blocks.3.kernel is float32[5, 7] instead of float32[5, 8]" in message
        assert "extra.bfloat16 is bfloat16[3, 2] instead of float32[3, 2]" in message
        del other.extra["bfloat16"], other.extra["uint32"]
        with pytest.raises(UserError, match="and 1 more"):
            store.restore(other)
        with pytest.raises(UserError, match="has no step 7; it has step 1"):
            store.restore(state, step=7)
    assert [p.name for p in tmp_path.iterdir()] == ["1"]


def test_resaving_a_step_is_a_no_op_and_older_steps_are_refused(tmp_path):
    with CheckpointStore(tmp_path, keep_best=False) as store:
        store.save(5, {"w": np.ones(2)}, {}, {})
        store.save(5, {"w": np.zeros(2)}, {}, {})
        assert store.restore({"w": np.ones(2)})[1]["w"].tolist() == [1, 1]
        with pytest.raises(ValueError, match="before the newest checkpoint, step 5"):
            store.save(4, {}, {}, {})


def test_unsupported_leaves_are_refused_before_writing(tmp_path):
    with CheckpointStore(tmp_path, keep_best=False) as store:
        with pytest.raises(ValueError, match="'key' is a typed PRNG key; store"):
            store.save(1, {"key": jax.random.key(0)}, {}, {})
        with pytest.raises(ValueError, match=r"'a\.0' is a str, which a checkpoint cannot hold"):
            store.save(1, {"a": ["text"]}, {}, {})
        with pytest.raises(ValueError, match=r"two leaves share the path 'a\.b'"):
            store.save(1, {"a": {"b": 1}, "a.b": 2}, {}, {})
        with pytest.raises(ValueError, match=r"meta may not set \['step'\]"):
            store.save(1, {}, {}, {"step": 1})
        with pytest.raises(TypeError, match="not JSON serializable"):
            store.save(1, {}, {}, {"model": object()})
        store.save(1, {"step": 7}, {}, {})
        assert store.restore({"step": 0}) == (1, {"step": 7})


def test_paths_without_a_checkpoint_get_one_sentence(tmp_path):
    def message(path, **options):
        with pytest.raises(UserError) as error:
            read_params_and_meta(path, **options)
        return str(error.value)

    save_steps(tmp_path / "run/pretrain/checkpoints", (1, 2))
    assert 'did you mean "pretrain"' in message(tmp_path / "run/pretrian")
    assert str(tmp_path / "run/pretrain") in message(tmp_path / "run")
    (tmp_path / "run/finetune/checkpoints").mkdir(parents=True)
    assert "no finished checkpoint (it holds nothing)" in message(tmp_path / "run/finetune")
    (tmp_path / "images/cat").mkdir(parents=True)
    assert "it holds only cat" in message(tmp_path / "images")
    (tmp_path / "weights.pth").touch()
    assert "is a file" in message(tmp_path / "weights.pth")
    (tmp_path / "foreign/100/default").mkdir(parents=True)
    assert "not a smallvit_jax checkpoint (it holds default)" in message(tmp_path / "foreign")
    assert '"latest" or "best"' in message(tmp_path / "run/pretrain", which="newest")
    flip_stored_array(tmp_path / "run/pretrain/checkpoints/2/params")
    assert "try step 1 instead" in message(tmp_path / "run/pretrain")
    assert read_params_and_meta(tmp_path / "run/pretrain/checkpoints/1")[1]["step"] == 1


def test_newer_format_is_refused_but_not_set_aside(tmp_path):
    from smallvit_jax.checkpoints import format as checkpoint_format

    save_steps(tmp_path, (1,))
    file = tmp_path / "1/meta/metadata"
    meta = json.loads(file.read_text()) | {"format_version": 2}
    del meta["digest"]
    meta["digest"] = checkpoint_format.digest(json.dumps(meta, sort_keys=True))
    file.write_text(json.dumps(meta))
    with pytest.raises(UserError, match="version 2, but this smallvit_jax reads version 1"):
        read_params_and_meta(tmp_path)
    store = CheckpointStore(tmp_path, keep_best=False)
    with store, pytest.raises(UserError, match="version 2"):
        store.restore(make_state())
    assert [p.name for p in tmp_path.iterdir()] == ["1"]
