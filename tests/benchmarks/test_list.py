"""`python -m benchmarks` lists every benchmark that can be run."""

from pathlib import Path

from benchmarks import __main__ as listing


def test_every_runnable_module_is_listed():
    folder = Path(listing.__file__).parent
    runnable = {
        path.stem
        for path in folder.glob("[!_]*.py")
        if 'if __name__ == "__main__":' in path.read_text()
    }
    listed = {benchmark.name for benchmark in listing.BENCHMARKS}
    assert listed == runnable - {"measure"}  # run by `speed`, one process per figure


def test_each_row_says_what_to_type(capsys):
    listing.main()
    printed = capsys.readouterr().out
    for benchmark in listing.BENCHMARKS:
        assert f"python -m benchmarks.{benchmark.name} {benchmark.arguments}".strip() in printed
        assert benchmark.shows in printed
