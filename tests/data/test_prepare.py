"""The command that prepares datasets, from its arguments to its exit code."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from smallvit_jax.data import load_split
from smallvit_jax.data.datasets import DATASETS
from smallvit_jax.data.prepare import main
from tests.data import tiny_originals as originals
from tests.data.tiny_tfds import encode, tiny_images, write_tfds

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def tiny_imagenet(tmp_path, monkeypatch):
    """An archive of 17 images in three classes."""
    labels = originals.tiny_imagenet(tmp_path / "tiny-imagenet-200")
    originals.expect(monkeypatch, "tiny_imagenet", 3, labels)
    return originals.pack(tmp_path / "tiny-imagenet-200", tmp_path / "tiny-imagenet-200.zip")


@pytest.fixture
def run(capsys):
    """Runs the command; returns exit code, stdout and stderr."""

    def command(*words):
        code = main([str(word) for word in words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command


def folder_contents(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_second_preparation_changes_nothing(run, tiny_imagenet, tmp_path):
    data_dir = tmp_path / "data"
    words = ("tiny_imagenet", "--manual_dir", tiny_imagenet, "--data_dir", data_dir)
    code, out, err = run(*words)
    assert (code, err) == (0, "")
    folder = data_dir / "tiny_imagenet/1.0.0"
    assert out == f"tiny_imagenet: 12 train, 5 validation images are in {folder} (0 MB)\n"
    assert [path.name for path in data_dir.iterdir()] == ["tiny_imagenet"]
    assert [path.name for path in folder.parent.iterdir()] == ["1.0.0"]
    before = folder_contents(data_dir)
    assert run("tiny_imagenet", f"--data_dir={data_dir}") == (0, out[:-1] + " already\n", "")
    assert folder_contents(data_dir) == before
    assert load_split("tiny_imagenet", "train", data_dir)[0].shape == (12, 64, 64, 3)


def test_preparation_is_deterministic(run, tiny_imagenet, tmp_path):
    contents = []
    for data_dir in (tmp_path / "a", tmp_path / "b"):
        run("tiny_imagenet", "--manual_dir", tiny_imagenet, "--data_dir", data_dir)
        files = sorted((data_dir / "tiny_imagenet/1.0.0").glob("*array_record*"))
        contents.append([file.read_bytes() for file in files])
    assert contents[0] == contents[1] and len(contents[0]) == 2


def test_default_folder_comes_from_the_environment(run, tiny_imagenet, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "environment"))
    assert run("tiny_imagenet", "--manual_dir", tiny_imagenet)[0] == 0
    assert len(load_split("tiny_imagenet", "test")[0]) == 5


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "the following arguments are required: DATASET; --help lists datasets and flags"),
        (["cinic"], 'dataset.name="cinic" is not in the dataset table (did you mean "cinic10"?'),
        (["cifar10", "--manual", "x"], "unrecognized arguments: --manual x; --help lists datasets"),
        (["cifar10", "--manual_dir", "."], "cifar10 is downloaded by TFDS and takes no --manual_d"),
        (["cinic10"], "cinic10 must be downloaded by hand first: get CINIC-10.tar.gz from http"),
        (["cars", "--manual_dir", "/none"], '--manual_dir "/none" does not exist; pass a folder w'),
    ],
)
def test_mistakes_get_one_sentence(run, tmp_path, words, sentence):
    code, out, err = run(*words, "--data_dir", tmp_path / "data")
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {sentence}") and err.count("\n") == 1
    assert not (tmp_path / "data/cinic10").exists()


def test_digits_need_no_preparation(run):
    assert run("digits") == (0, "digits needs no preparation: it comes with scikit-learn\n", "")


def test_missing_tensorflow_is_reported(run, tmp_path, monkeypatch):
    monkeypatch.setattr("smallvit_jax.data.prepare._has_tensorflow", lambda: False)
    code, _, err = run("svhn", "--data_dir", tmp_path)
    assert code == 2
    assert err.startswith(
        "error: TFDS needs TensorFlow to prepare svhn, though not to read it; pip"
    )


def test_missing_network_is_reported_quickly(run, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr("smallvit_jax.data.prepare._has_tensorflow", lambda: True)
    start = time.perf_counter()
    code, _, err = run("cifar100", "--data_dir", tmp_path)
    assert time.perf_counter() - start < 60  # not minutes of retries
    assert code == 2
    assert err.startswith(
        "error: cifar100 could not be downloaded (ConnectionError for https://www.cs.toronto.edu/"
    )
    assert not (tmp_path / "cifar100").exists()


def test_cifar100_through_tensorflow(run, tmp_path, monkeypatch):
    """Everything except the download, if TensorFlow is installed."""
    pytest.importorskip("tensorflow")
    from tensorflow_datasets.core.download.download_manager import DownloadManager

    binary = tmp_path / "download/cifar-100-binary"
    binary.mkdir(parents=True)
    images, _ = tiny_images(4)
    for split in ("train", "test"):
        records = [
            bytes([number, number]) + np.moveaxis(image, -1, 0).tobytes()
            for number, image in enumerate(images)
        ]
        (binary / f"{split}.bin").write_bytes(b"".join(records))
    for file, count in (("coarse", 20), ("fine", 100)):
        names = "".join(f"{file} {number}\n" for number in range(count))
        (binary / f"{file}_label_names.txt").write_text(names)
    monkeypatch.setattr(
        DownloadManager, "download_and_extract", lambda *_: str(tmp_path / "download")
    )
    monkeypatch.setattr("smallvit_jax.data.prepare._check_network", lambda url: None)
    code, _, err = run("cifar100", "--data_dir", tmp_path)
    assert code == 0, err
    read, labels, info = load_split("cifar100", "train", tmp_path)
    assert np.array_equal(read[np.argsort(labels)], images)
    assert info.class_names[99] == "fine 99"


def test_existing_tfds_dataset_is_checked(run, tmp_path):
    images, labels = tiny_images(7)
    examples = [(encode(image), label) for image, label in zip(images, labels, strict=True)]
    folder = write_tfds(tmp_path, {"train": examples})
    expected = f"cifar10: 7 train images are in {folder} (0 MB) already\n"
    expected = (0, expected.replace("0 MB", f"{_megabytes(folder)} MB"), "")
    assert run("cifar10", "--data_dir", tmp_path) == expected
    next(folder.glob("*array_record*")).write_bytes(b"")
    code, _, err = run("cifar10", "--data_dir", tmp_path)
    assert code == 2 and "delete the dataset and copy or prepare it again" in err


def _megabytes(folder):
    return f"{sum(file.stat().st_size for file in folder.iterdir()) / 1e6:,.0f}"


def test_unwritable_folder_is_refused(run, tiny_imagenet, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    if os.geteuid():
        (tmp_path / "closed").mkdir(mode=0o500)
        words = ("--manual_dir", tiny_imagenet, "--data_dir", tmp_path / "closed")
        code, _, err = run("tiny_imagenet", *words)
        assert code == 2 and "no permission to read or write" in err
    words = ("--manual_dir", tiny_imagenet, "--data_dir", tmp_path / "file")
    code, _, err = run("tiny_imagenet", *words)
    assert (code, err.count("\n")) == (2, 1)
    assert f'"{tmp_path}/file" is a file, but a folder is needed; choose another folder' in err


def test_leftovers_of_a_killed_preparation_are_removed(run, tiny_imagenet, tmp_path):
    leftovers = tmp_path / "data/tiny_imagenet/incomplete.ABC123_1.0.0"
    leftovers.mkdir(parents=True)
    (leftovers / "dataset_info.json").write_text("{}")
    words = ("--manual_dir", tiny_imagenet, "--data_dir", tmp_path / "data")
    assert run("tiny_imagenet", *words)[0] == 0
    assert [path.name for path in leftovers.parent.iterdir()] == ["1.0.0"]


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopped_preparation_leaves_no_dataset(tmp_path, stop):
    """Stopped while it reads the original, a pipe that never ends."""
    original = tmp_path / "CINIC-10"
    originals.cinic10(original)
    image = next((original / "train/cat").iterdir())
    image.unlink()
    os.mkfifo(image)
    code = (
        "import sys; from smallvit_jax.data.builders import own_builder\n"
        "from smallvit_jax.data import prepare\n"
        "own_builder('cinic10').COUNTS = dict.fromkeys(['train', 'valid', 'test'], 10)\n"
        "sys.exit(prepare.main(sys.argv[1:]))"
    )
    words = ["cinic10", "--manual_dir", str(original), "--data_dir", str(tmp_path / "data")]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words], cwd=REPOSITORY, stderr=subprocess.PIPE, text=True
    )
    folder = tmp_path / "data/cinic10"
    until = time.monotonic() + 60
    while not list(folder.glob("incomplete.*")) and time.monotonic() < until:
        time.sleep(0.02)
    second = main(words)  # while the first is running
    process.send_signal(stop)
    _, err = process.communicate(timeout=30)
    assert second == 2
    if stop == signal.SIGKILL:
        assert not (folder / "1.0.0").exists()
    else:
        assert process.returncode == 128 + stop
        assert err.startswith(f"error: interrupted by {stop.name}; the dataset is not ready yet")
        assert not folder.exists()


def test_help_lists_the_datasets():
    command = [sys.executable, "-m", "smallvit_jax.data.prepare", "--help"]
    run = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    for name, row in DATASETS.items():
        if row.builder:
            assert f"\n  {name} " in run.stdout and row.original in run.stdout
    assert run.stderr == ""
