"""The platform that a program is traced for, which may be another than this machine's."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import jax

_TARGET: ContextVar[str | None] = ContextVar("platform", default=None)
_FUSED_ATTENTION: ContextVar[bool] = ContextVar("fused_attention", default=True)


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
    _FUSED_ATTENTION.set(allowed)


def fused_attention() -> bool:
    """Whether attention is one kernel where it can be: on a GPU, unless turned off."""
    return platform() == "gpu" and _FUSED_ATTENTION.get()
