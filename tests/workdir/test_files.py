"""Files that are replaced atomically."""

import json
import multiprocessing
import os

from smallvit_jax.workdir.files import csv_text, strict_json, write_atomically


def _write_often(path, letter):
    for _ in range(100):
        write_atomically(path, letter * 1000)


def test_two_processes_can_write_the_same_file(tmp_path):
    """Like processes that share a comparison and write its table."""
    context = multiprocessing.get_context("spawn")
    path = tmp_path / "table.csv"
    writers = [context.Process(target=_write_often, args=(path, letter)) for letter in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert path.read_text() in ("a" * 1000, "b" * 1000)
    assert list(tmp_path.iterdir()) == [path]


def test_names_that_are_not_utf8_are_written_as_escapes(tmp_path):
    name = os.fsdecode(b"caf\xe9.jpg")
    write_atomically(tmp_path / "a.json", strict_json({"file": name}))
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"file": name}
    write_atomically(tmp_path / "a.csv", csv_text([{"file": name}]))
    assert (tmp_path / "a.csv").read_text(encoding="utf-8") == "file\ncaf\\udce9.jpg\n"
