"""SIGINT (Ctrl-C) and SIGTERM: a program ends cleanly, a training stage after a checkpoint.

Python's own handlers wait until the main thread is back from XLA, which may compile for minutes; a
training stage therefore listens in a thread.
"""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """The process was asked to stop; the message, if any, says what has been saved."""

    def __init__(self, signum: int, message: str = ""):
        super().__init__(message)
        self.signum = signum


def exit_code(signum: int) -> int:
    """The exit code of a process that a signal stopped, as shells have it: 130 or 143."""
    return 128 + signum


@contextlib.contextmanager
def raising_interrupted() -> Iterator[None]:
    """Inside, the first SIGINT or SIGTERM raises `Interrupted`, the second exits at once."""

    def handler(signum, frame):
        for each in _SIGNALS:
            signal.signal(each, lambda number, frame: os._exit(exit_code(number)))
        raise Interrupted(signum)

    with _handled_by(handler):
        yield


class StopRequest:
    """Notes the first SIGINT or SIGTERM, so that training can finish its steps and save.

    A second one exits at once, also while XLA compiles. Does nothing outside the main thread, where
    Python allows no handlers. A request that nothing raised `Interrupted` for is handed on at the
    end to whoever handled signals before.
    """

    def __init__(self, tell: Callable[[str], None]):
        self.signum = 0  # none yet
        self._tell = tell
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
            self._tell(
                f"{signal.Signals(signum).name}: finishing these steps and saving a checkpoint; "
                "a second signal exits at once"
            )

    def agreed(self) -> int:
        """The signal that any process has been sent, 0 if none.

        All processes call it at the same steps and get the same answer: it is a small collective,
        for which the devices finish what they were given before.
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
    """Sets the handler of both signals, except of one that is ignored, as after `nohup` or `&`."""
    before: dict[int, Any] = {}
    try:
        if threading.current_thread() is threading.main_thread():
            for each in _SIGNALS:
                if signal.getsignal(each) is not signal.SIG_IGN:
                    before[each] = signal.signal(each, handler)
        yield
    finally:
        for each, previous in before.items():
            # None: a handler that was not set from Python, such as that of jax.distributed.
            signal.signal(each, signal.SIG_DFL if previous is None else previous)
