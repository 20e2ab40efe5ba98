"""Prepares a dataset: `python -m smallvit_jax.data.prepare DATASET [--manual_dir PATH]`.

Writes array_record files that every job reads without TensorFlow. Exits with 0 once the dataset is
there, 2 for a mistake that the user can fix (one line on stderr), 130 or 143 if interrupted, and 1
for a bug (with a traceback).
"""

import argparse
import contextlib
import fcntl
import importlib.util
import io
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from smallvit_jax.data.builders import own_builder
from smallvit_jax.data.datasets import DATASETS, DatasetSpec, get_dataset
from smallvit_jax.data.tfds_directory import check_prepared, data_root, quiet_tfds
from smallvit_jax.errors import UserError
from smallvit_jax.process.program import run_program
from smallvit_jax.process.remote import is_remote

_NETWORK_SECONDS = 15


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""

    def body() -> None:
        flags = _parser().parse_args(argv)
        print(prepare(flags.dataset, flags.manual_dir, flags.data_dir))

    return run_program(
        body, when_interrupted="the dataset is not ready yet; run the same command to start over"
    )


def prepare(name: str, manual_dir: str | Path | None, data_dir: str | Path | None) -> str:
    """Makes sure that `load_split(name, ..., data_dir)` works; returns a sentence saying so.

    `manual_dir` is the original's archive, its unpacked folder, or a folder that contains either;
    datasets that TFDS downloads itself take none. Raises UserError if the original is missing,
    damaged or incomplete, a download fails, or TensorFlow is needed but not installed.
    """
    spec = get_dataset(name)
    if not spec.builder:
        return f"{name} needs no preparation: it comes with scikit-learn"
    if manual_dir and not spec.original:
        raise UserError(
            f"{name} is downloaded by TFDS and takes no --manual_dir; run without it, on a machine "
            "with network access"
        )
    if is_remote(data_dir):
        raise UserError(
            f"--data_dir={data_dir} must be a folder on this machine; prepare {name} here, then "
            "copy it there"
        )
    if check_prepared(spec, data_dir):
        return f"{_describe(spec, data_dir)} already"
    root = data_root(data_dir)
    with (
        quiet_tfds() as tfds,
        _alone_in(root / spec.builder),
        contextlib.redirect_stdout(io.StringIO()),  # TFDS announces downloads even without any
    ):
        if spec.original:
            _prepare_original(spec, manual_dir, root)
        else:
            _download(tfds, spec, root)
    return _describe(spec, data_dir)


def _prepare_original(spec: DatasetSpec, manual_dir: str | Path | None, root: Path) -> None:
    if not manual_dir:
        raise UserError(
            f"{spec.name} must be downloaded by hand first: get {spec.original}, then pass it as "
            "--manual_dir"
        )
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()  # the builders show their own
    own = own_builder(spec.builder)
    assert own is not None  # every dataset with an original has one
    builder = own(original=manual_dir, data_dir=root)
    try:
        builder.download_and_prepare(file_format="array_record")
    finally:
        with contextlib.suppress(OSError):  # TFDS creates them even if nothing is downloaded
            (root / "downloads/extracted").rmdir()
            (root / "downloads").rmdir()


def _download(tfds, spec: DatasetSpec, root: Path) -> None:
    """Has TFDS download and prepare one of its own datasets."""
    if not _has_tensorflow():
        raise UserError(
            f"TFDS needs TensorFlow to prepare {spec.name}, though not to read it; pip install "
            "tensorflow here, or copy the prepared dataset from another machine"
        )
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    builder = tfds.builder(spec.builder, data_dir=root)
    try:
        if not any((root / "downloads").rglob("*.INFO")):  # nothing downloaded earlier
            _check_network(next(iter(builder.url_infos)))
        builder.download_and_prepare(file_format="array_record")
    except Exception as error:
        if problem := _network_problem(error):
            raise UserError(
                f"{spec.name} could not be downloaded ({problem}); check the network, then run the "
                "same command again, or copy the prepared dataset from another machine"
            ) from error
        raise


def _has_tensorflow() -> bool:
    return importlib.util.find_spec("tensorflow") is not None


def _check_network(url: str) -> None:
    """Fails fast without a network; TFDS itself gives up only after 200 seconds."""
    import requests

    requests.head(url, timeout=_NETWORK_SECONDS)


def _network_problem(error: BaseException | None) -> str | None:
    """Describes a failed download; returns None for any other error."""
    import requests
    from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError
    from tensorflow_datasets.core.download.util import DownloadError

    while error is not None:
        if isinstance(error, requests.exceptions.RequestException):
            return f"{type(error).__name__} for {str(error.request.url) if error.request else '?'}"
        if isinstance(error, (NonMatchingChecksumError, DownloadError)):
            return f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"
        error = error.__cause__ or error.__context__
    return None


def _describe(spec: DatasetSpec, data_dir: str | Path | None) -> str:
    prepared = check_prepared(spec, data_dir)
    assert prepared is not None  # called only once it is
    folder, counts = prepared
    size = sum(file.stat().st_size for file in folder.iterdir())
    images = ", ".join(f"{count:,} {split}" for split, count in counts.items())
    return f"{spec.name}: {images} images are in {folder} ({size / 1e6:,.0f} MB)"


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Locks out a second preparation, and deletes the remains of a killed one."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".preparing", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"another process is preparing a dataset in {folder}; wait for it to finish"
            ) from error
        try:
            for remains in folder.glob("incomplete.*"):  # TFDS renames it when complete
                shutil.rmtree(remains)
            yield
        finally:
            os.remove(lock.name)
            with contextlib.suppress(OSError):  # not empty if the dataset was prepared
                folder.rmdir()


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; --help lists datasets and flags")


def _parser() -> argparse.ArgumentParser:
    lines = ["datasets, and what to download for each:"]
    for spec in DATASETS.values():
        if spec.builder:
            source = (
                spec.original or "downloaded by TFDS; needs TensorFlow (pip install tensorflow)"
            )
            lines.append(f"  {spec.name:14} {source}")
    parser = _Parser(
        prog="python -m smallvit_jax.data.prepare",
        description="Prepares a dataset once, so that training can read it without TensorFlow.\n"
        "An interrupted preparation leaves no partial dataset.",
        epilog="\n".join(lines),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("dataset", metavar="DATASET", help="a name from the list below")
    parser.add_argument(
        "--manual_dir",
        metavar="PATH",
        help="the original: its archive, the unpacked folder, or a folder that contains either",
    )
    parser.add_argument(
        "--data_dir",
        metavar="DIR",
        help="where to write the dataset; default: $TFDS_DATA_DIR, else ~/tensorflow_datasets",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
