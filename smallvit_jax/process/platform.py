"""The platform that a program is traced for, which may be another than this machine's."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import jax

_TARGET: ContextVar[str | None] = ContextVar("platform", default=None)


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
