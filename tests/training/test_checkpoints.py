"""Checkpoints: bit-exact round trips, damage, kills, full disks, other device counts."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from smallvit_jax.errors import UserError
from smallvit_jax.training.checkpoints import CheckpointStore, read_params_and_meta


class State(NamedTuple):
    step: Any
    weights: dict[str, Any]
    optimizer: Any
    extra: dict[str, Any]


def make_state(step: int = 3, seed: int = 0) -> State:
    rng = np.random.default_rng(seed)
    weights = {
        f"blocks.{i}.kernel": jnp.asarray(rng.normal(size=(5, 7)), jnp.float32) for i in range(12)
    }
    return State(
        step=jnp.asarray(step, jnp.int32),
        weights=weights,
        optimizer=optax.chain(optax.clip(1.0), optax.adamw(1e-3)).init(weights),
        extra={
            "bfloat16": jnp.asarray(rng.normal(size=(3, 2)), jnp.bfloat16),
            "uint32": jnp.asarray([0, 1, 2**32 - 1], jnp.uint32),
            "bool": jnp.asarray([True, False]),
            "nan": jnp.asarray([np.nan, -0.0, np.inf], jnp.float32),
            "empty": jnp.zeros((0, 4)),
            "weak": jnp.asarray(0.25),
            "host": np.arange(3, dtype=np.int64),
            "list": [7, 0.1, True],
        },
    )


def bits(tree: Any) -> dict[str, tuple]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path): (np.asarray(x).dtype, np.shape(x), np.asarray(x).tobytes())
        for path, x in leaves
    }


def params_of(state: State) -> dict[str, Any]:
    return state.weights


def save_steps(folder: Path, steps, **options) -> None:
    with CheckpointStore(folder, keep_best=False, **options) as store:
        for step in steps:
            state = make_state(step, seed=step)
            store.save(step, state, params_of(state), {"model": "vit"})


def largest_file(folder: Path) -> Path:
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def flip_bit(file: Path, offset: int) -> None:
    data = bytearray(file.read_bytes())
    data[offset] ^= 16
    file.write_bytes(data)


def flip_stored_array(folder: Path) -> None:
    """Flips a bit of an array's own bytes: those of compressed chunks come first in a data file."""
    flip_bit(largest_file(folder), 60)


def in_subprocess(code: str, devices: int = 1) -> str:
    env = dict(os.environ, JAX_PLATFORMS="cpu")
    env["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


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


def test_buffers_may_be_donated_once_save_returns(tmp_path):
    wipe = jax.jit(lambda x: x * 0 - 1, donate_argnums=0)
    state = {"w": jnp.arange(2_000_000, dtype=jnp.float32)}
    before = np.array(state["w"])
    with CheckpointStore(tmp_path, keep_best=False) as store:
        store.save(1, state, {}, {})
        for _ in range(3):  # while the background write is under way
            state = {"w": wipe(state["w"])}
        jax.block_until_ready(state)
        _, restored = store.restore(state)
        np.testing.assert_array_equal(restored["w"], before)
        moved = wipe(restored["w"])  # what was restored may be donated as well
        _, again = store.restore(state)
    np.testing.assert_array_equal(again["w"], before)
    np.testing.assert_array_equal(moved, -np.ones_like(before))


def test_keeps_the_newest_and_the_best(tmp_path):
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


def test_keeps_two_without_a_metric(tmp_path):
    save_steps(tmp_path, (1, 2, 3, 4))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["3", "4"]
    with pytest.raises(UserError, match="held-out accuracy"):
        read_params_and_meta(tmp_path, "best")


DAMAGE = {
    "empty folder": lambda f: (shutil.rmtree(f), f.mkdir()),
    "half deleted": lambda f: (shutil.rmtree(f / "meta"), shutil.rmtree(f / "params")),
    "state gone": lambda f: shutil.rmtree(f / "state"),
    "file gone": lambda f: largest_file(f / "state").unlink(),
    "file cut": lambda f: os.truncate(
        largest_file(f / "state"), largest_file(f / "state").stat().st_size // 2
    ),
    "file empty": lambda f: os.truncate(largest_file(f / "state"), 0),
    "bit flipped": lambda f: flip_stored_array(f / "state"),
    "index cut": lambda f: os.truncate(f / "state/_METADATA", 20),
    "meta cut": lambda f: os.truncate(f / "meta/metadata", 40),
    "meta altered": lambda f: (f / "meta/metadata").write_text(
        (f / "meta/metadata").read_text().replace('"vit"', '"vjt"')
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_falls_back_with_one_sentence(tmp_path, kind, capfd):
    save_steps(tmp_path, (1, 2))
    DAMAGE[kind](tmp_path / "2")
    with CheckpointStore(tmp_path, keep_best=False) as store:
        step, restored = store.restore(make_state())
        assert step == 1 and bits(restored) == bits(make_state(1, seed=1))
        assert store.latest_step() == 1
        state = make_state(2, seed=99)
        store.save(2, state, params_of(state), {})  # really saves again
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1", "2", "2.corrupt"]
    time.sleep(0.05)  # late threads of a failed read
    out, err = capfd.readouterr()
    assert out == "" and len(err.splitlines()) == 1, err
    assert err.startswith(f"warning: {tmp_path}/2 is damaged (its") or "is altered" in err
    with CheckpointStore(tmp_path, keep_best=False) as store:
        step, restored = store.restore(make_state())
    assert step == 2 and bits(restored) == bits(state)


def test_every_flipped_bit_is_found(tmp_path):
    """Bits all over the array file: none is restored wrong in silence."""
    save_steps(tmp_path, (1, 2))
    sound = bits(make_state(2, seed=2))
    file = largest_file(tmp_path / "2/state")
    original = file.read_bytes()
    found = 0
    for offset in np.linspace(0, len(original) - 1, 15).astype(int):
        flip_bit(file, offset)
        with CheckpointStore(tmp_path, keep_best=False, warn=lambda text: None) as store:
            step, restored = store.restore(make_state())
        if step == 2:  # bytes that nothing refers to
            assert bits(restored) == sound
        else:
            found += 1
            (tmp_path / "2.corrupt").rename(tmp_path / "2")
        file.write_bytes(original)
    assert found >= 5


def test_never_begins_anew_in_silence(tmp_path):
    save_steps(tmp_path, (1, 2))
    for step in ("1", "2"):
        shutil.rmtree(tmp_path / step / "state")
    for _ in range(2):  # nothing was renamed, so the second attempt says the same
        store = CheckpointStore(tmp_path, keep_best=False)
        with store, pytest.raises(UserError, match=r"every checkpoint .*step 2: its state is"):
            store.restore(make_state())
    shutil.rmtree(tmp_path / "1")
    (tmp_path / "2").rename(tmp_path / "2.corrupt")
    store = CheckpointStore(tmp_path, keep_best=False)
    with store, pytest.raises(UserError, match=r"2\.corrupt.*remove the folder to begin anew"):
        store.restore(make_state())


def test_a_template_that_does_not_fit_is_named_and_nothing_is_moved(tmp_path):
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
        assert (
            "weights.blocks.3.kernel is float32[5, 7] where this run has float32[5, 8]" in message
        )
        assert "extra.bfloat16 is bfloat16[3, 2] where this run has float32[3, 2]" in message
        del other.extra["bfloat16"], other.extra["uint32"]
        with pytest.raises(UserError, match="and 1 more"):
            store.restore(other)
        with pytest.raises(UserError, match="has no step 7; it has step 1"):
            store.restore(state, step=7)
    assert [p.name for p in tmp_path.iterdir()] == ["1"]


def test_saving_the_newest_step_again_changes_nothing_and_an_older_one_is_refused(tmp_path):
    with CheckpointStore(tmp_path, keep_best=False) as store:
        store.save(5, {"w": np.ones(2)}, {}, {})
        store.save(5, {"w": np.zeros(2)}, {}, {})
        assert store.restore({"w": np.ones(2)})[1]["w"].tolist() == [1, 1]
        with pytest.raises(ValueError, match="before the newest checkpoint, step 5"):
            store.save(4, {}, {}, {})


def test_paths_without_a_checkpoint(tmp_path):
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
    assert "not a checkpoint of smallvit_jax (it holds default)" in message(tmp_path / "foreign")
    assert '"latest" or "best"' in message(tmp_path / "run/pretrain", which="newest")
    flip_stored_array(tmp_path / "run/pretrain/checkpoints/2/params")
    assert "try step 1 beside it" in message(tmp_path / "run/pretrain")
    assert read_params_and_meta(tmp_path / "run/pretrain/checkpoints/1")[1]["step"] == 1


def test_a_later_format_is_refused_not_set_aside(tmp_path):
    from smallvit_jax.training import checkpoint_format

    save_steps(tmp_path, (1,))
    file = tmp_path / "1/meta/metadata"
    meta = json.loads(file.read_text()) | {"format_version": 2}
    del meta["digest"]
    file.write_text(json.dumps(checkpoint_format.seal(meta)))
    with pytest.raises(UserError, match="version 2, and this smallvit_jax reads version 1"):
        read_params_and_meta(tmp_path)
    store = CheckpointStore(tmp_path, keep_best=False)
    with store, pytest.raises(UserError, match="version 2"):
        store.restore(make_state())
    assert [p.name for p in tmp_path.iterdir()] == ["1"]


SHARDED = """
    import sys, jax, jax.numpy as jnp, numpy as np
    from jax.sharding import NamedSharding, PartitionSpec
    from smallvit_jax.training.checkpoints import CheckpointStore, read_params_and_meta
    from smallvit_jax.training.sharding import make_mesh

    mesh = make_mesh()
    sharding = {"split": NamedSharding(mesh, PartitionSpec("data")),
                "copied": NamedSharding(mesh, PartitionSpec())}
    value = {"split": np.arange(48.0, dtype=np.float32).reshape(16, 3) / 7,
             "copied": np.arange(5, dtype=np.int32)}
    state = {k: jax.device_put(v, sharding[k]) for k, v in value.items()}
    with CheckpointStore(sys.argv[1] if len(sys.argv) > 1 else FOLDER, keep_best=False) as store:
        if FIRST:
            store.save(1, state, state, {})
        else:
            step, restored = store.restore(jax.tree.map(jnp.zeros_like, state))
            for name, array in restored.items():
                assert array.sharding == sharding[name], array.sharding
                assert np.asarray(array).tobytes() == value[name].tobytes()
    if not FIRST:
        params, meta = read_params_and_meta(FOLDER)
        assert params["split"].tobytes() == value["split"].tobytes()
    print(jax.device_count(), "devices")
"""


@pytest.mark.parametrize(("before", "after"), [(1, 8), (8, 1)])
def test_another_device_count(tmp_path, before, after):
    for first, devices in ((True, before), (False, after)):
        header = f"FOLDER, FIRST = {str(tmp_path)!r}, {first}\n"
        out = in_subprocess(header + textwrap.dedent(SHARDED), devices)
        assert f"{devices} devices" in out
    assert f"device count {before} → {after}" in out and "not bit for bit" in out


SAVE_FOREVER = """
    import numpy as np
    from smallvit_jax.training.checkpoints import CheckpointStore

    with CheckpointStore(FOLDER, keep_best=False) as store:
        step, _ = store.restore({"w": np.zeros(300_000), "step": 0}) or (0, None)
        while True:
            step += 1
            state = {"w": np.full(300_000, float(step)), "step": step}
            store.save(step, state, {"w": state["w"][:9]}, {})
            print(step, flush=True)
"""


def test_kill_during_saves_leaves_a_sound_step(tmp_path):
    rng = np.random.default_rng(0)
    reached = 0
    for _ in range(3):
        code = f"FOLDER = {str(tmp_path)!r}\n" + textwrap.dedent(SAVE_FOREVER)
        child = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=dict(os.environ)
        )
        for _ in range(3):
            printed = int(child.stdout.readline())
        time.sleep(rng.uniform(0, 0.1))
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        with CheckpointStore(tmp_path, keep_best=False, warn=pytest.fail) as store:
            step, restored = store.restore({"w": np.zeros(300_000), "step": 0})
        # A save returns once the one before it is finished.
        assert step >= printed - 1 > reached
        assert restored["step"] == step and (restored["w"] == step).all()
        reached = printed - 1
    with CheckpointStore(tmp_path, keep_best=False) as store:  # tidies up what was half written
        store.save(step + 1, restored, {}, {})
    assert sorted(p.name for p in tmp_path.iterdir()) == [str(step), str(step + 1)]


FULL_DISK = """
    import os, numpy as np
    from smallvit_jax.errors import UserError
    from smallvit_jax.training.checkpoints import CheckpointStore

    rng = np.random.default_rng(0)
    failures = []
    store = CheckpointStore(FOLDER + "/checkpoints", keep_best=False)
    for step in range(1, 6):
        try:
            store.save(step, {"w": rng.normal(size=250_000)}, {}, {})  # 2 MB each
            store.wait()
        except UserError as error:
            failures.append(str(error))
    store.close()
    for failure in failures: print(failure)
    assert sorted(filter(str.isdecimal, os.listdir(FOLDER + "/checkpoints"))) == ["1", "2"]
    os.remove(FOLDER + "/ballast")
    with CheckpointStore(FOLDER + "/checkpoints", keep_best=False) as store:
        assert store.restore({"w": np.zeros(250_000)})[0] == 2
        store.save(3, {"w": rng.normal(size=250_000)}, {}, {})
    assert sorted(os.listdir(FOLDER + "/checkpoints")) == ["2", "3"]
"""


def test_a_full_disk_is_one_sentence_and_the_last_step_stays(tmp_path):
    """On a small file system of its own, in a user namespace."""
    probe = ["unshare", "-rm", "mount", "-t", "tmpfs", "-o", "size=7m", "none", str(tmp_path)]
    if shutil.which("unshare") is None or subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("this machine does not let a test mount a file system")
    code = f"FOLDER = {str(tmp_path)!r}\n" + textwrap.dedent(FULL_DISK)
    script = f'{" ".join(probe[2:])} && head -c 2000000 /dev/zero > {tmp_path}/ballast && exec "$@"'
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, "sh", sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    for line in lines:
        assert line.startswith(f"the disk holding {tmp_path}/checkpoints is full; free space and ")
        assert line.endswith("the last good checkpoint is step 2")
