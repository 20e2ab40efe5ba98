"""SIGINT (Ctrl-C) and SIGTERM: clean exit, in training after saving a checkpoint.

Python's signal handlers wait until the main thread returns from XLA, which may compile for minutes;
training therefore listens for signals in a thread.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """The process was asked to stop; the message, if any, says what was saved."""

    def __init__(self, signum: int, message: str = ""):
        super().__init__(message)
        self.signum = signum


def exit_code(signum: int) -> int:
    """Returns the shell's exit code for a process stopped by a signal: 130 or 143."""
    return 128 + signum


@contextlib.contextmanager
def raising_interrupted() -> Iterator[None]:
    """Makes the first SIGINT or SIGTERM raise `Interrupted` and the second exit at once.

    Python runs handlers wherever the main thread is. In a callback, as of the garbage collector,
    it would only print what was raised and go on; there, the process exits at once instead.
    """

    def handler(signum, frame):
        for each in _SIGNALS:
            signal.signal(each, lambda number, frame: os._exit(exit_code(number)))
        raise Interrupted(signum)

    def exit_if_ignored(unraisable):
        if isinstance(unraisable.exc_value, Interrupted):
            signum = unraisable.exc_value.signum
            sentence = f"error: interrupted by {signal.Signals(signum).name}\n"
            os.write(2, sentence.encode())
            os._exit(exit_code(signum))
        hook(unraisable)

    hook, sys.unraisablehook = sys.unraisablehook, exit_if_ignored
    try:
        with _handled_by(handler):
            yield
    finally:
        sys.unraisablehook = hook


class StopRequest:
    """Records the first SIGINT or SIGTERM, so that training can finish its steps and save.

    A second signal exits at once, even while XLA compiles. Does nothing outside the main thread,
    where Python does not allow handlers. If the block exits without an exception after a signal,
    the signal is raised again for the previous handler.

    Args:
      notify: called with one sentence when the first signal arrives.
    """

    def __init__(self, notify: Callable[[str], None]):
        self.signum = 0  # no signal yet
        self._notify = notify
        self._active = threading.current_thread() is threading.main_thread()
        self._handling = _handled_by(self._note)

    def __enter__(self) -> "StopRequest":
        if self._active:
            self._reader, self._writer = socket.socketpair()
            self._writer.setblocking(False)
            self._wakeup_before = signal.set_wakeup_fd(self._writer.fileno())
            self._listener = threading.Thread(target=self._listen, daemon=True)
            self._listener.start()
            self._handling.__enter__()
        return self

    def _note(self, signum: int, frame: Any = None) -> None:
        self.signum = self.signum or signum

    def _listen(self) -> None:
        first = True
        while received := self._reader.recv(1):
            signum = received[0]
            if signum not in _SIGNALS:
                continue
            if not first:
                os._exit(exit_code(signum))
            first = False
            self._note(signum)
            self._notify(
                f"{signal.Signals(signum).name}: finishing these steps and saving a checkpoint; "
                "a second signal exits at once"
            )

    def agreed(self) -> int:
        """Returns the signal that any process received, or 0.

        A collective: all processes must call it at the same step, and all get the same answer. It
        waits until the devices finish earlier work.
        """
        import jax
        import numpy as np

        if jax.process_count() == 1:
            return self.signum
        from jax.experimental import multihost_utils

        agreed = int(multihost_utils.process_allgather(np.int32(self.signum)).max())
        self.signum = self.signum or agreed  # the thread may have set it meanwhile
        return agreed

    def __exit__(self, kind, error, trace) -> None:
        if not self._active:
            return
        self._handling.__exit__(None, None, None)
        signal.set_wakeup_fd(self._wakeup_before)
        self._writer.close()  # ends the thread
        self._listener.join()
        self._reader.close()
        if self.signum and kind is None:
            signal.raise_signal(self.signum)


@contextlib.contextmanager
def _handled_by(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Installs a handler for both signals, except those already ignored, as by `nohup` or `&`."""
    before: dict[signal.Signals, Any] = {}
    try:
        if threading.current_thread() is threading.main_thread():
            for each in _SIGNALS:
                if signal.getsignal(each) is not signal.SIG_IGN:
                    before[each] = signal.signal(each, handler)
        yield
    finally:
        for each, previous in before.items():
            # None: the handler was not installed from Python, for example by jax.distributed.
            signal.signal(each, signal.SIG_DFL if previous is None else previous)
