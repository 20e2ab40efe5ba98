"""Accelerators to compile for that are not here: their names, sizes and data-sheet rates."""

import re
import string
from typing import NamedTuple

from smallvit_jax.errors import UserError, did_you_mean

_GB = 10**9


class Chip(NamedTuple):
    """One kind of chip.

    Attributes:
      platform: "tpu" or "cuda".
      memory: bytes per chip.
      flops: dense bfloat16 FLOP/s per chip.
      bandwidth: bytes/s of its memory.
      cores: what its number counts per chip in names such as v5p-8: Google counts cores there.
      topology: name for XLA, with the sides of a slice, or empty for a GPU.
      devices: JAX devices per chip.
      device_kind: what JAX calls such a device.
      options: further arguments of `jax.experimental.topologies.get_topology_desc`.
    """

    platform: str
    memory: float
    flops: float
    bandwidth: float
    cores: int = 1
    topology: str = ""
    devices: int = 1
    device_kind: str = ""
    options: dict[str, str] | None = None


# From the vendors' data sheets.
_MEGACORE = {"chip_config_name": "megacore"}  # both cores of a chip as one device
CHIPS = {
    "v4": Chip(
        "tpu", 32 * 2**30, 275e12, 1228 * _GB, 2, "v4", device_kind="TPU v4", options=_MEGACORE
    ),
    "v5e": Chip("tpu", 16 * 2**30, 197e12, 819 * _GB, 1, "v5e", device_kind="TPU v5 lite"),
    "v5p": Chip("tpu", 95 * 2**30, 459e12, 2765 * _GB, 2, "v5p", device_kind="TPU v5"),
    "v6e": Chip("tpu", 32 * 2**30, 918e12, 1640 * _GB, 1, "v6e", device_kind="TPU v6 lite"),
    "tpu7x": Chip("tpu", 192 * 2**30, 2307e12, 7380 * _GB, 2, "tpu7x", 2, device_kind="TPU7x"),
    "h100": Chip("cuda", 84929347584, 989e12, 3352 * _GB, device_kind="NVIDIA H100 80GB HBM3"),
    "h200": Chip("cuda", 150754820096, 989e12, 4800 * _GB, device_kind="NVIDIA H200"),
}

# Slices by their number of chips; v5e and v6e are flat, the others are not.
_FLAT = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
_DEEP = {4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4", 128: "4x4x8"}

# A Hopper card as XLA's GPU compiler wants it described; figures from NVIDIA's data sheets and
# CUDA's device query.
_HOPPER = string.Template("""
gpu_device_info {
  cuda_compute_capability { major: 9 minor: 0 }
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  memory_bandwidth: $bandwidth
  device_memory_size: $memory
  l2_cache_size: 52428800
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  registers_per_block_limit: 65536
  registers_per_core_limit: 65536
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
}
platform_name: "CUDA"
runtime_version { major: 12 minor: 8 }
dnn_version_info { major: 9 minor: 7 }
device_description_str: "$device_kind"
""")


class Target(NamedTuple):
    """A number of chips of one kind, by the name that the user gave."""

    name: str
    chip: Chip
    chips: int

    @property
    def devices(self) -> int:
        """JAX devices; the batch is split over them."""
        return self.chips * self.chip.devices

    @property
    def memory_per_device(self) -> float:
        """Bytes."""
        return self.chip.memory / self.chip.devices

    @property
    def topology(self) -> str:
        """Name of the slice for XLA, such as "v5e:2x4"."""
        flat = self.chip.topology in ("v5e", "v6e")
        return f"{self.chip.topology}:{(_FLAT if flat else _DEEP)[self.chips]}"


def describe_card(chip: Chip) -> str:
    """A GPU as XLA's compiler wants it described, in protocol buffer text."""
    return _HOPPER.substitute(
        bandwidth=int(chip.bandwidth), memory=int(chip.memory), device_kind=chip.device_kind
    )


def read_targets(text: str) -> list[Target]:
    """Reads "v5e-8,h100": kinds of chips, with the size of the slice as Google names it.

    Raises UserError for an unknown kind or size.
    """
    return [_read_target(name.strip()) for name in text.split(",")]


def _read_target(name: str) -> Target:
    match = re.fullmatch(r"([a-z]\w*?)(?:-(\d+))?", name)
    kind = match[1] if match else name
    if kind not in CHIPS:
        known = did_you_mean(kind, CHIPS)
        raise UserError(
            f'compile_check.targets has "{name}"{known}; known: {", ".join(CHIPS)}, with a size as '
            "in v5e-8"
        )
    chip = CHIPS[kind]
    size = int(match[2]) if match and match[2] else chip.cores
    chips = size // chip.cores
    sizes = {1: ""} if chip.platform == "cuda" else _FLAT if kind in ("v5e", "v6e") else _DEEP
    if size % chip.cores or chips not in sizes:
        possible = ", ".join(f"{kind}-{number * chip.cores}" for number in sizes)
        raise UserError(
            f'compile_check.targets has "{name}", but possible sizes are {possible}'
            + ("" if chip.cores == 1 else f" ({chip.cores} cores per chip)")
        )
    return Target(name, chip, chips)
