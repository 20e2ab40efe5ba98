import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType

from smallvit_jax.data.batches import BatchOrder
from smallvit_jax.errors import UserError
from smallvit_jax.training import placement
from smallvit_jax.training.placement import (
    choose_placement,
    fetch,
    make_source,
    stored_bytes,
)
from tests.data.tiny_tfds import tiny_images

BLOCK = 4
KINDS = ("device", "host")
IMAGES, LABELS = tiny_images(37, size=8)
fetch_jitted = jax.jit(fetch)


@pytest.fixture(scope="module")
def mesh():
    return jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:1])


@pytest.fixture
def order():
    return BatchOrder(len(IMAGES), 6, seed=5, field="pretrain.batch_size")


def assert_block_is(order, block, step, count):
    for i, indices in enumerate(order.block(step, count)):
        images, labels = fetch_jitted(block, i)
        assert images.dtype == np.uint8 and labels.dtype == np.int32
        assert np.array_equal(images, IMAGES[indices])
        assert np.array_equal(labels, LABELS[indices])


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None)
@given(requests=st.lists(st.tuples(st.integers(0, 30), st.integers(1, BLOCK)), max_size=6))
def test_any_sequence_of_blocks_is_correct(mesh, kind, requests):
    """Consecutive, after a short one, repeated and out of order."""
    order = BatchOrder(len(IMAGES), 6, seed=5)
    shapes = set()
    with make_source(IMAGES, LABELS, order, mesh, kind, BLOCK) as source:
        assert source.placement == kind
        for step, count in [(0, BLOCK), (BLOCK, 2), (BLOCK + 2, BLOCK), *requests]:
            block = source.block(step, count)
            assert_block_is(order, block, step, count)
            shapes.add(str(jax.tree.map(np.shape, block)))
    assert len(shapes) == 1  # so one program serves them all


@pytest.mark.parametrize("kind", KINDS)
def test_fetch_traces_the_step_and_captures_no_constants(mesh, order, kind):
    def total(block, count):
        def body(i, running):
            images, labels = fetch(block, i)
            return running + images.astype(int).sum() + 1000 * labels.sum()

        return jax.lax.fori_loop(0, count, body, 0)

    with make_source(IMAGES, LABELS, order, mesh, kind, BLOCK) as source:
        block = source.block(3, 3)
        used = order.block(3, 3)
        assert jax.jit(total)(block, 3) == IMAGES[used].sum() + 1000 * LABELS[used].sum()
        assert jax.make_jaxpr(total)(block, 3).consts == []


def test_host_prefetches_the_next_block(mesh, order):
    """The block is ready before it is requested, and its images are gathered once."""
    gathered = []

    class Watched(BatchOrder):
        def block(self, step, count):
            gathered.append((step, threading.current_thread().name))
            return super().block(step, count)

    watched = Watched(len(IMAGES), 6, seed=5)
    with make_source(IMAGES, LABELS, watched, mesh, "host", BLOCK) as source:
        source.block(0, BLOCK)
        deadline = time.monotonic() + 10
        while len(gathered) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert_block_is(order, source.block(BLOCK, 3), BLOCK, 3)
    assert [step for step, _ in gathered[:2]] == [0, BLOCK]
    assert all(name.startswith("prefetch") for _, name in gathered)


def test_failure_in_the_prefetch_thread_reaches_the_caller(mesh, order):
    class Broken(BatchOrder):
        def block(self, step, count):
            if step >= BLOCK:
                raise RuntimeError("no more")
            return super().block(step, count)

    with make_source(IMAGES, LABELS, Broken(len(IMAGES), 6, seed=5), mesh, "host", BLOCK) as source:
        source.block(0, BLOCK)  # prepares the next one, which fails
        with pytest.raises(RuntimeError, match="no more"):
            source.block(BLOCK, BLOCK)
        assert_block_is(order, source.block(1, 2), 1, 2)  # and the source still works


def test_close_ends_the_thread(mesh, order):
    before = threading.active_count()
    source = make_source(IMAGES, LABELS, order, mesh, "host", BLOCK)
    source.block(0, BLOCK)
    assert threading.active_count() == before + 1
    source.close()
    source.close()
    assert threading.active_count() == before
    with pytest.raises(RuntimeError):
        source.block(BLOCK, BLOCK)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [0, BLOCK + 1])
def test_count_outside_the_block_is_refused(mesh, order, kind, count):
    with (
        make_source(IMAGES, LABELS, order, mesh, kind, BLOCK) as source,
        pytest.raises(ValueError),
    ):
        source.block(0, count)


def test_order_of_another_dataset_is_refused(mesh, order):
    with pytest.raises(ValueError, match="36 images, 37 labels and an order of 37"):
        make_source(IMAGES[:36], LABELS, order, mesh, "device", BLOCK)


def test_auto_chooses_the_device_if_images_fit(mesh, monkeypatch):
    monkeypatch.setattr(placement, "memory_per_device", lambda mesh: (10 * 2**30, 0.4))
    assert choose_placement("auto", (4 * 2**30,), mesh) == "device"
    assert choose_placement("auto", (4 * 2**30 + 1,), mesh) == "host"
    assert choose_placement("device", (10 * 2**30,), mesh) == "device"
    assert choose_placement("host", (1,), mesh) == "host"
    with pytest.raises(UserError, match=r"take 10\.1 GiB and a device has 10\.0 GiB; choose"):
        choose_placement("device", (int(10.1 * 2**30),), mesh)


def test_a_tpu_pads_rows_of_bytes():
    assert stored_bytes(50_000, 32 * 32 * 3, "cpu") == 50_000 * 3072
    assert stored_bytes(50_000, 32 * 32 * 3, "tpu") == 50_016 * 3072
    assert stored_bytes(1, 28 * 28 * 3, "tpu") == 32 * 2432


def test_cifar_fits_on_this_device(mesh):
    assert choose_placement("auto", (50_000, 32, 32, 3), mesh) == "device"
    assert choose_placement("auto", (2**50,), mesh) == "host"


def test_unknown_placement_suggests_the_closest(mesh):
    with pytest.raises(UserError, match=r'runtime.data_placement is "hots" .did you mean "host"'):
        choose_placement("hots", (1,), mesh)


@pytest.mark.multiprocess
def test_batches_are_split_over_eight_devices():
    """The batch is split over the devices in both placements, and fetching needs no collective."""
    repository = Path(__file__).parents[2]
    run = subprocess.run(
        [sys.executable, "-m", "tests.training.eight_devices"],
        cwd=repository,
        env={
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        },
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["device", "host", "uneven"]
