"""The platform that a program is traced for, which may be another than this machine's."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import jax

_TARGET: ContextVar[str | None] = ContextVar("platform", default=None)
_OLDEST_FOR_KERNELS = 8.0  # compute capability: Ampere, the first with bfloat16
_allowed = True  # see `set_fused_attention`


def platform() -> str:
    """Returns what is being compiled for, or else this machine's: "cpu", "gpu" or "tpu"."""
    return _TARGET.get() or jax.default_backend()


@contextlib.contextmanager
def compiling_for(target: str) -> Iterator[None]:
    """Makes `platform` return `target` for whatever is traced inside."""
    token = _TARGET.set(target)
    try:
        yield
    finally:
        _TARGET.reset(token)


def set_fused_attention(allowed: bool) -> None:
    """Sets what `fused_attention` returns on a GPU, for the whole process."""
    global _allowed
    _allowed = allowed


def fused_attention() -> bool:
    """Whether attention is one kernel where it can be: on an NVIDIA GPU, unless turned off."""
    return platform() == "gpu" and _allowed and _runs_kernels()


def _runs_kernels() -> bool:
    """Whether this machine's GPU can run kernels in bfloat16; True when compiling for another."""
    if jax.default_backend() != "gpu":
        return True
    capability = getattr(jax.local_devices()[0], "compute_capability", "")
    return capability.replace(".", "", 1).isdecimal() and float(capability) >= _OLDEST_FOR_KERNELS
