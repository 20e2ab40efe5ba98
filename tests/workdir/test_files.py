"""Files that are replaced atomically."""

import multiprocessing

from smallvit_jax.workdir.files import write_atomically


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
