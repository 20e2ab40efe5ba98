"""SIGINT and SIGTERM in separate processes: the effects of a first and a second signal."""

import signal
import subprocess
import sys
import textwrap
import threading

import pytest

from smallvit_jax.process.signals import Interrupted, StopRequest, raising_interrupted

# The default handler is restored because shells ignore SIGINT in background jobs (`&`).
PREAMBLE = """
    import signal, sys, time
    signal.signal(signal.SIGINT, signal.default_int_handler)
    from smallvit_jax.process.signals import Interrupted, StopRequest, raising_interrupted
    from smallvit_jax.process.program import run_program

    def ready(word="ready"):
        print(word, flush=True)
"""


def start(code: str) -> subprocess.Popen:
    """Starts code that prints a line when it is ready for a signal."""
    code = textwrap.dedent(PREAMBLE) + textwrap.dedent(code)
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def send(process: subprocess.Popen, *signals) -> tuple[int, str, str]:
    """Sends each signal after another line is printed; returns exit code, stdout and stderr."""
    try:
        for each in signals:
            assert process.stdout.readline()
            process.send_signal(each)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, out, err


CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


@pytest.mark.parametrize("signum", CODES)
def test_signal_outside_training_exits_with_code_and_one_line(signum):
    process = start(
        """
        def body():
            try:
                ready()
                time.sleep(60)
            finally:
                print("tidied up")
        sys.exit(run_program(body, when_interrupted="try again"))
        """
    )
    code, out, err = send(process, signum)
    assert (code, out) == (CODES[signum], "tidied up\n")
    assert err == f"error: interrupted by {signum.name}; try again\n"


def test_second_signal_outside_training_exits_immediately():
    process = start(
        """
        def body():
            try:
                ready()
                time.sleep(60)
            finally:
                ready("tidying up")
                time.sleep(60)
        sys.exit(run_program(body, when_interrupted="try again"))
        """
    )
    assert send(process, signal.SIGINT, signal.SIGTERM) == (143, "", "")


@pytest.mark.parametrize("signum", CODES)
def test_first_signal_in_training_is_announced_and_deferred(signum):
    process = start(
        """
        def body():
            with StopRequest(lambda text: print(text, file=sys.stderr)) as stop:
                ready()
                while not stop.agreed():
                    time.sleep(0.001)
                raise Interrupted(stop.agreed(), "all is saved")
        sys.exit(run_program(body, when_interrupted="try again"))
        """
    )
    code, _, err = send(process, signum)
    announced, ended = err.splitlines()
    assert code == CODES[signum]
    assert announced.startswith(f"{signum.name}: finishing these steps and saving a checkpoint;")
    assert ended == f"error: interrupted by {signum.name}; all is saved; try again"


def test_second_signal_exits_even_during_native_code():
    """A read that signals do not interrupt: as in XLA's compiler, no Python handler can run."""
    process = start(
        """
        import ctypes, os
        with StopRequest(lambda text: ready("noted")):
            signal.siginterrupt(signal.SIGTERM, False)
            ready()
            ctypes.CDLL(None).read(os.pipe()[0], ctypes.create_string_buffer(1), 1)
        """
    )
    code, _, _ = send(process, signal.SIGTERM, signal.SIGTERM)
    assert code == 143


def test_handlers_are_restored_and_a_late_request_raises():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    announced = []
    with raising_interrupted():
        outer = signal.getsignal(signal.SIGTERM)
        with pytest.raises(Interrupted) as caught, StopRequest(announced.append) as stop:
            assert signal.getsignal(signal.SIGTERM) is not outer
            signal.raise_signal(signal.SIGTERM)
            while not announced:
                pass
            assert stop.agreed() == signal.SIGTERM
        assert caught.value.signum == signal.SIGTERM
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    assert signal.set_wakeup_fd(-1) == -1


def test_ignored_signal_stays_ignored():
    """As after `nohup`, or for SIGINT in a shell script's background jobs."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with raising_interrupted(), StopRequest(pytest.fail) as stop:
            signal.raise_signal(signal.SIGINT)
            assert stop.agreed() == 0
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_do_not_handle_signals():
    seen = []

    def work():
        before = signal.getsignal(signal.SIGTERM)
        with raising_interrupted(), StopRequest(pytest.fail) as stop:
            seen.append((signal.getsignal(signal.SIGTERM) is before, stop.agreed()))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(True, 0)]


def test_signal_in_a_callback_is_not_ignored():
    """Python prints what a callback of the garbage collector raises, and goes on."""
    program = """
import gc, os, signal, sys
from smallvit_jax.process.program import run_program

def body():
    gc.callbacks.append(lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    gc.collect()
    print("went on")

sys.exit(run_program(body, when_interrupted=""))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (143, "")
    assert done.stderr == "error: interrupted by SIGTERM\n"
