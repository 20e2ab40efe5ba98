"""Keeps the training images in the memory of every device, or in host memory with prefetch.

Both sources give the training loop a *block*: the data for several consecutive steps, as a pytree
of device arrays that is an argument of the jitted program. There, `fetch(block, i)` returns the
batch of the block's i-th step, split over the mesh axis `data`. Both sources give the same batches.
"""

import math
import os
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Int, Int32, UInt8

from smallvit_jax.config.choices import PLACEMENTS
from smallvit_jax.data.batches import BatchOrder
from smallvit_jax.errors import UserError, check_choice

ACCELERATOR_SHARE = 0.4  # of device memory that images may take; the rest is for training
_HOST_SHARE = 0.25  # of host memory, if the host is the device


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class DeviceBlock:
    """The whole split, a row of `shape` for each image, and the images of each step.

    A TPU keeps rows as they are, but would pad single images to several times their size, and copy
    all of them into another layout at every call.
    """

    images: UInt8[Array, "images pixels"]
    labels: Int32[Array, " images"]
    indices: Int32[Array, "steps batch"]
    shape: tuple[int, int, int] = field(metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class HostBlock:
    """The images of each step."""

    images: UInt8[Array, "steps batch height width 3"]
    labels: Int32[Array, "steps batch"]


Block = DeviceBlock | HostBlock


def stored_bytes(count: int, pixels: int, platform: str) -> int:
    """Bytes that `count` images of `pixels` bytes each take on a device.

    A TPU pads arrays of bytes to tiles of 32 rows and 128 columns.
    """
    if platform == "tpu":
        count, pixels = -(-count // 32) * 32, -(-pixels // 128) * 128
    return count * pixels


def choose_placement(requested: str, shape: tuple[int, ...], mesh: Mesh) -> str:
    """Resolves "auto" to "device" if images of this shape fit on each device, else to "host".

    `shape` is [images, height, width, 3]. Raises UserError for an unknown placement, and for
    "device" if the images exceed the memory.
    """
    check_choice("runtime.data_placement", requested, PLACEMENTS)
    if requested == "host":
        return "host"
    memory, share = memory_per_device(mesh)
    num_bytes = stored_bytes(shape[0], math.prod(shape[1:]), mesh.devices.flat[0].platform)
    if requested == "auto":
        return "device" if num_bytes <= share * memory else "host"
    if num_bytes > memory:
        raise UserError(
            f"runtime.data_placement=device, but the training images take {num_bytes / 2**30:.1f} "
            f"GiB and a device has {memory / 2**30:.1f} GiB; choose auto or host"
        )
    return "device"


def check_batch(order: BatchOrder, mesh: Mesh, parts: int = 1) -> None:
    """Raises UserError if the batch does not split evenly over devices, with `parts` per device."""
    devices = mesh.shape["data"]
    if order.batch_size % (devices * parts):
        accumulate = f" and runtime.accumulate={parts}" if parts > 1 else ""
        raise UserError(
            f"{order.field}={order.batch_size} does not split evenly over {devices} devices"
            f"{accumulate}; choose a multiple of {devices * parts}"
        )


def make_source(
    images: UInt8[np.ndarray, "images height width 3"],
    labels: Int[np.ndarray, " images"],
    order: BatchOrder,
    mesh: Mesh,
    placement: str,
    block_size: int,
) -> "Source":
    """Returns the source of training batches for `placement` (auto, device or host).

    `order` indexes `images`, which must not be modified. Raises UserError if the batch does not
    split evenly over the devices of the mesh.
    """
    if len(images) != len(labels) or len(images) != order.num_examples:
        raise ValueError(
            f"{len(images)} images, {len(labels)} labels and an order of {order.num_examples}"
        )
    check_batch(order, mesh)
    chosen = choose_placement(placement, images.shape, mesh)
    kind = DeviceSource if chosen == "device" else HostSource
    return kind(images, np.asarray(labels, np.int32), order, mesh, block_size)


def fetch(
    block: Block, step: Int[Array, ""] | int
) -> tuple[UInt8[Array, "batch height width 3"], Int32[Array, " batch"]]:
    """Returns images and labels of the block's `step`-th step; call this in a jitted function."""

    def row(array):
        return jax.lax.dynamic_index_in_dim(array, step, keepdims=False)

    if isinstance(block, HostBlock):
        return row(block.images), row(block.labels)
    indices = row(block.indices)
    # Split indices into a replicated array: each device gathers its own part without waiting.
    images = block.images.at[indices].get(mode="promise_in_bounds")
    images = images.reshape(-1, *block.shape)
    return images, block.labels.at[indices].get(mode="promise_in_bounds")


class _Source:
    """The interface of both sources to the training loop."""

    placement: str
    fetch = staticmethod(fetch)

    def __init__(self, images, labels, order: BatchOrder, mesh: Mesh, block_size: int):
        self.order = order
        self.block_size = block_size
        self.mesh = mesh
        self._images, self._labels = images, labels
        self._by_step = NamedSharding(mesh, P(None, "data"))

    def block(self, step: int, count: int) -> Block:
        """Returns the block whose first step is `step`.

        It always has `block_size` steps, so that every block shares one compiled program; only the
        first `count` are used. Steps may be requested in any order.
        """
        if not 1 <= count <= self.block_size:
            raise ValueError(f"{count} steps requested from a block of {self.block_size}")
        return self._block(step, count)

    def _block(self, step: int, count: int) -> Block:
        raise NotImplementedError

    def close(self) -> None:
        """Stops background work."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class DeviceSource(_Source):
    """Keeps the whole split on each device; a block is a few kilobytes of indices."""

    placement = "device"

    def __init__(self, images, labels, order: BatchOrder, mesh: Mesh, block_size: int):
        super().__init__(images, labels, order, mesh, block_size)
        replicated = NamedSharding(mesh, P())
        rows = images.reshape(len(images), -1)
        self._shape = images.shape[1:]
        self._images = _send(rows, rows.shape, replicated)
        self._labels = _send(labels, labels.shape, replicated)

    def _block(self, step: int, count: int) -> DeviceBlock:
        indices = self.order.block(step, self.block_size)
        sent = _send(indices, indices.shape, self._by_step)
        return DeviceBlock(self._images, self._labels, sent, self._shape)


class HostSource(_Source):
    """Keeps the split in host memory; a thread copies the next block to the devices in advance.

    An error in the thread is raised by the `block` call that would have returned its result.
    """

    placement = "host"

    def __init__(self, images, labels, order: BatchOrder, mesh: Mesh, block_size: int):
        super().__init__(images, labels, order, mesh, block_size)
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch")
        self._next: tuple[int, Future[HostBlock]] | None = None

    def _block(self, step: int, count: int) -> HostBlock:
        expected, self._next = self._next, None
        if expected is not None and expected[0] == step:
            block = expected[1].result()
        else:
            block = self._worker.submit(self._prepare, step).result()
        self._next = (step + count, self._worker.submit(self._prepare, step + count))
        return block

    def close(self) -> None:
        self._worker.shutdown(wait=True, cancel_futures=True)
        self._next = None

    def _prepare(self, step: int) -> HostBlock:
        indices = self.order.block(step, self.block_size)
        image_shape = (*indices.shape, *self._images.shape[1:])
        return HostBlock(
            _send(self._images, image_shape, self._by_step, indices),
            _send(self._labels, indices.shape, self._by_step, indices),
        )


Source = DeviceSource | HostSource


def _send(array, shape, sharding: NamedSharding, rows=None) -> Array:
    """Copies `array`, or its `rows`, to the devices; each process copies only its own part."""

    def part(index):
        return array[index] if rows is None else array[rows[index[:2]]]

    return jax.make_array_from_callback(tuple(shape), sharding, part)


def memory_per_device(mesh: Mesh) -> tuple[int, float]:
    """Returns the bytes of memory per device, and the share that images may take."""
    device = mesh.local_devices[0]
    stats = device.memory_stats() or {}
    if device.platform != "cpu" and "bytes_limit" in stats:
        return stats["bytes_limit"], ACCELERATOR_SHARE
    host = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return host // len(mesh.local_devices), _HOST_SHARE
