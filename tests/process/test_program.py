"""Exit codes and messages of a command, by the exception that ends it."""

import errno
import io
import sys

import jax
import pytest

from smallvit_jax.errors import UserError
from smallvit_jax.process import signals
from smallvit_jax.process.program import run_program

ENDINGS = {
    "a mistake": (UserError("no such\n  folder"), 2, "error: no such folder\n"),
    "Ctrl-C": (KeyboardInterrupt(), 130, "error: interrupted; run it again\n"),
    "SIGTERM": (
        signals.Interrupted(15, "saved at step 3"),
        143,
        "error: interrupted by SIGTERM; saved at step 3; run it again\n",
    ),
    "a closed pipe": (BrokenPipeError(), 141, ""),
    "a full disk": (
        OSError(errno.ENOSPC, "No space left on device", "runs/x"),
        2,
        'error: no space left on the disk at "runs/x"; free some space and run the same command '
        "again\n",
    ),
    "no permission": (
        PermissionError(errno.EACCES, "Permission denied", "runs/x"),
        2,
        'error: no permission to read or write at "runs/x"; choose another folder or change '
        "permissions\n",
    ),
    "a file for a folder": (
        NotADirectoryError(errno.ENOTDIR, "Not a directory", "runs/x"),
        2,
        'error: "runs/x" is a file, but a folder is needed; choose another folder\n',
    ),
    "a long name": (
        OSError(errno.ENAMETOOLONG, "File name too long"),
        2,
        "error: the name is too long; choose a shorter one\n",
    ),
}


@pytest.mark.parametrize(("error", "code", "message"), ENDINGS.values(), ids=list(ENDINGS))
def test_exit_code_and_one_line(error, code, message, capsys):
    def body():
        raise error

    assert run_program(body, when_interrupted="run it again") == code
    assert capsys.readouterr().err == message


def test_success_is_silent(capsys):
    assert run_program(lambda: None, when_interrupted="") == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("RESOURCE_EXHAUSTED: 2 GiB")])
def test_too_little_memory_names_the_settings_that_save_some(error, capsys):
    def body():
        raise error

    assert run_program(body, when_interrupted="") == 2
    assert "runtime.accumulate=2" in capsys.readouterr().err


def test_a_bug_is_shown_with_its_traceback(capsys):
    assert run_program(lambda: {}["missing"], when_interrupted="") == 1
    message = capsys.readouterr().err
    assert "KeyError: 'missing'" in message and "this is a bug in smallvit_jax" in message


def test_a_lost_process_is_no_bug(capsys, monkeypatch):
    def body():
        raise RuntimeError("Gloo all-reduce failed: connection reset by peer\nlong details")

    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    assert run_program(body, when_interrupted="run it again") == 75
    message = capsys.readouterr().err
    assert "Gloo all-reduce failed: connection reset by peer)" in message
    assert "long details" not in message and message.endswith("run it again\n")


def test_names_that_the_terminal_cannot_show_are_escaped(monkeypatch):
    shown = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", shown)
    assert run_program(lambda: print("caf\u00e9 \udce9", flush=True), when_interrupted="") == 0
    assert shown.buffer.getvalue() == b"caf\\xe9 \\udce9\n"
