"""Checkpoints after damage, kills and full disks, and on another number of devices."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from smallvit_jax.checkpoints.store import CheckpointStore
from smallvit_jax.errors import UserError
from tests.checkpoints.cases import (
    bits,
    flip_bit,
    flip_stored_array,
    largest_file,
    make_state,
    params_of,
    save_steps,
)

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
def test_damaged_step_falls_back_with_one_sentence(tmp_path, kind, capfd):
    save_steps(tmp_path, (1, 2))
    DAMAGE[kind](tmp_path / "2")
    with CheckpointStore(tmp_path, keep_best=False) as store:
        step, restored = store.restore(make_state())
        assert step == 1 and bits(restored) == bits(make_state(1, seed=1))
        assert store.latest_step() == 1
        state = make_state(2, seed=99)
        store.save(2, state, params_of(state), {})  # saves the step again
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1", "2", "2.corrupt"]
    time.sleep(0.05)  # for late threads of a failed read
    out, err = capfd.readouterr()
    assert out == "" and len(err.splitlines()) == 1, err
    assert err.startswith(f"warning: {tmp_path}/2 is damaged (its") or "is corrupted" in err
    with CheckpointStore(tmp_path, keep_best=False) as store:
        step, restored = store.restore(make_state())
    assert step == 2 and bits(restored) == bits(state)


def test_every_flipped_bit_is_detected(tmp_path):
    """Bits all over the array file: no wrong value is silently restored."""
    save_steps(tmp_path, (1, 2))
    intact = bits(make_state(2, seed=2))
    file = largest_file(tmp_path / "2/state")
    original = file.read_bytes()
    found = 0
    for offset in np.linspace(0, len(original) - 1, 15).astype(int):
        flip_bit(file, offset)
        with CheckpointStore(tmp_path, keep_best=False, warn=lambda text: None) as store:
            step, restored = store.restore(make_state())
        if step == 2:  # unreferenced bytes
            assert bits(restored) == intact
        else:
            found += 1
            (tmp_path / "2.corrupt").rename(tmp_path / "2")
        file.write_bytes(original)
    assert found >= 5


def make_foreign(folder, kind):
    shutil.rmtree(folder)
    if kind == "another program's":
        (folder / "default").mkdir(parents=True)
        (folder / "default/array").write_text("something")
    else:
        with CheckpointStore(folder.parent, keep_best=False) as store:
            store.save(2, {"other": np.ones(3)}, {}, {})


@pytest.mark.parametrize(
    ("kind", "cause"),
    [("another program's", "it holds default"), ("another model's", "step is missing")],
)
def test_foreign_checkpoint_is_set_aside(tmp_path, kind, cause, capfd):
    save_steps(tmp_path, (1, 2))
    make_foreign(tmp_path / "2", kind)
    with CheckpointStore(tmp_path, keep_best=False) as store:
        step, restored = store.restore(make_state())
    assert step == 1 and bits(restored) == bits(make_state(1, seed=1))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1", "2.corrupt"]
    err = capfd.readouterr().err
    assert err.startswith(f"warning: {tmp_path}/2 does not belong to this run ({cause}")
    assert err.endswith("renamed to 2.corrupt, resuming from step 1\n") and err.count("\n") == 1


def test_only_foreign_checkpoints_are_refused_in_place(tmp_path):
    save_steps(tmp_path, (2,))
    make_foreign(tmp_path / "2", "another program's")
    store = CheckpointStore(tmp_path, keep_best=False)
    with store, pytest.raises(UserError, match="not a smallvit_jax checkpoint"):
        store.restore(make_state())
    assert [p.name for p in tmp_path.iterdir()] == ["2"]


def test_never_silently_starts_over(tmp_path):
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
    with store, pytest.raises(UserError, match=r"2\.corrupt.*remove the folder to start over"):
        store.restore(make_state())


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


SHARDED = """
    import sys, jax, jax.numpy as jnp, numpy as np
    from jax.sharding import NamedSharding, PartitionSpec
    from smallvit_jax.checkpoints.store import CheckpointStore, read_params_and_meta
    from smallvit_jax.process.sharding import make_mesh

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
def test_restores_on_another_device_count(tmp_path, before, after):
    for first, devices in ((True, before), (False, after)):
        header = f"FOLDER, FIRST = {str(tmp_path)!r}, {first}\n"
        out = in_subprocess(header + textwrap.dedent(SHARDED), devices)
        assert f"{devices} devices" in out
    assert f"device count {before} → {after}" in out and "not bit for bit" in out


TWO_PROCESSES = """
    import os, sys, jax, jax.numpy as jnp, numpy as np
    from jax.experimental.multihost_utils import sync_global_devices
    from jax.sharding import NamedSharding, PartitionSpec
    from smallvit_jax.checkpoints.store import CheckpointStore, read_params_and_meta
    from smallvit_jax.process.sharding import make_mesh

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{PORT}", 2, RANK)
    mesh = make_mesh()
    value = {"split": np.arange(48.0).reshape(16, 3), "copied": np.arange(5.0)}
    sharding = {"split": NamedSharding(mesh, PartitionSpec("data")),
                "copied": NamedSharding(mesh, PartitionSpec())}
    def spread(scale):
        return {k: jax.make_array_from_callback(v.shape, sharding[k], lambda i, v=v: scale * v[i])
                for k, v in value.items()}
    with CheckpointStore(FOLDER, keep_best=False) as store:
        for step in (1, 2):
            store.save(step, spread(step), {}, {})
    sync_global_devices("saved")
    if RANK == 0:
        os.truncate(f"{FOLDER}/2/state/manifest.ocdbt", 9)
    sync_global_devices("damaged")
    with CheckpointStore(FOLDER, keep_best=False) as store:
        step, restored = store.restore(spread(0))
        assert step == 1
        for name, array in restored.items():
            assert array.sharding == sharding[name]
            for shard in array.addressable_shards:
                np.testing.assert_array_equal(shard.data, value[name][shard.index])
        store.save(2, restored, {}, {})
        store.save(3, restored, {}, {})
    assert sorted(os.listdir(FOLDER)) == ["2", "2.corrupt", "3"]
    assert read_params_and_meta(FOLDER)[1]["environment"]["process_count"] == 2
"""


@pytest.mark.multiprocess
def test_two_processes_agree_on_damage_and_restore(tmp_path):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    env = dict(
        os.environ, JAX_PLATFORMS="cpu", XLA_FLAGS="--xla_force_host_platform_device_count=2"
    )
    children = []
    for rank in range(2):
        header = f"FOLDER, PORT, RANK = {str(tmp_path)!r}, {port}, {rank}\n"
        command = [sys.executable, "-c", header + textwrap.dedent(TWO_PROCESSES)]
        children.append(subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True))
    try:
        errors = [child.communicate(timeout=90)[1] for child in children]
    finally:
        for child in children:
            child.kill()
    assert [child.returncode for child in children] == [0, 0], errors[0][-2000:] + errors[1][-2000:]
    assert [error.count("is damaged") for error in errors] == [1, 0]  # reported once


SAVE_FOREVER = """
    import numpy as np
    from smallvit_jax.checkpoints.store import CheckpointStore

    with CheckpointStore(FOLDER, keep_best=False) as store:
        step, _ = store.restore({"w": np.zeros(300_000), "step": 0}) or (0, None)
        while True:
            step += 1
            state = {"w": np.full(300_000, float(step)), "step": step}
            store.save(step, state, {"w": state["w"][:9]}, {})
            print(step, flush=True)
"""


def test_kill_during_save_leaves_an_intact_step(tmp_path):
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
        # A save returns once the previous one has finished.
        assert step >= printed - 1 > reached
        assert restored["step"] == step and (restored["w"] == step).all()
        reached = printed - 1
    with CheckpointStore(tmp_path, keep_best=False) as store:  # removes half-written steps
        store.save(step + 1, restored, {}, {})
    assert sorted(int(p.name) for p in tmp_path.iterdir()) == [step, step + 1]


FULL_DISK = """
    import os, numpy as np
    from smallvit_jax.errors import UserError
    from smallvit_jax.checkpoints.store import CheckpointStore

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


def test_full_disk_gets_one_sentence_and_keeps_the_last_step(tmp_path):
    """Runs on its own small file system, in a user namespace."""
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
