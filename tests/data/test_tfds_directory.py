"""Reading TFDS directories: small ones written here, and real ones if available."""

import json
import logging
import shutil
import socket
import time

import numpy as np
import pytest

from smallvit_jax.data import load_split
from smallvit_jax.errors import UserError
from tests.conftest import REAL_IMAGES
from tests.data.tiny_tfds import CIFAR10_CLASSES, encode, tiny_images, write_tfds

FEW, WHOLE = REAL_IMAGES / "tfds_small", REAL_IMAGES / "tfds"
TRAIN, TEST = tiny_images(23, seed=1), tiny_images(7, seed=2)


def encoded(images, labels):
    return [(encode(image), label) for image, label in zip(images, labels, strict=True)]


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A data_dir with 23 training images in 2 files and 7 test images."""
    data_dir = tmp_path_factory.mktemp("tfds")
    splits = {"train": encoded(*TRAIN), "test": encoded(*TEST)}
    write_tfds(data_dir, splits, shards=2)
    return data_dir


@pytest.fixture
def data_dir(original, tmp_path):
    """A copy that a test can damage."""
    shutil.copytree(original, tmp_path / "data")
    return tmp_path / "data"


def shard(data_dir, split="train", number=0):
    return data_dir / f"cifar10/3.0.2/cifar10-{split}.array_record-{number:05d}-of-00002"


def edit_json(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def failure(data_dir, split="train"):
    with pytest.raises(UserError) as caught:
        load_split("cifar10", split, data_dir)
    message = str(caught.value)
    assert "\n" not in message and str(data_dir) in message
    return message


def test_images_and_labels_are_read_in_order(original):
    for split, (images, labels) in (("train", TRAIN), ("test", TEST)):
        read_images, read_labels, info = load_split("cifar10", split, original)
        assert np.array_equal(read_images, images) and read_images.dtype == np.uint8
        assert np.array_equal(read_labels, labels) and read_labels.dtype == np.int32
        assert info.class_names == CIFAR10_CLASSES
        assert (info.name, info.num_classes, info.image_size) == ("cifar10", 10, 32)
        assert info.mean == (0.4914, 0.4822, 0.4465)


def test_directory_comes_from_the_environment(original, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(original))
    assert len(load_split("cifar10", "test")[0]) == 7
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setenv("HOME", str(original / "nobody"))
    with pytest.raises(UserError, match=r"nobody/tensorflow_datasets; pass --data_dir"):
        load_split("cifar10", "test")


def test_newest_version_is_read(data_dir):
    images, labels = tiny_images(5, seed=3)
    write_tfds(data_dir, {"train": encoded(images, labels)}, version="3.0.10")
    assert np.array_equal(load_split("cifar10", "train", data_dir)[0], images)


def test_label_minus_one_means_unlabeled(tmp_path):
    images, _ = tiny_images(2)
    write_tfds(tmp_path, {"train": encoded(images, [-1, 4])})
    assert load_split("cifar10", "train", tmp_path)[1].tolist() == [-1, 4]


def test_reading_uses_no_network_and_prints_nothing(original, monkeypatch, capfd, caplog):
    def refuse(*_):
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    load_split("cifar10", "train", original)
    assert capfd.readouterr() == ("", "")
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


def test_missing_dataset_fails_quickly(tmp_path):
    start = time.perf_counter()
    message = failure(tmp_path)
    assert time.perf_counter() - start < 60  # TFDS itself retries for 204 s
    assert f"python -m smallvit_jax.data.prepare cifar10 --data_dir={tmp_path}" in message
    with pytest.raises(UserError, match=r"prepare cars --manual_dir=ORIGINAL --data_dir="):
        load_split("cars", "train", tmp_path)


def test_dataset_folder_as_data_dir_suggests_its_parent(original):
    for inside in (original / "cifar10", original / "cifar10/3.0.2"):
        assert f"so you may mean {original};" in failure(inside)


def test_missing_version_folder_is_reported(tmp_path):
    (tmp_path / "cifar10" / "3.0.2.incompleteABC").mkdir(parents=True)
    assert "has no version" in failure(tmp_path)


def test_missing_split_is_reported(data_dir):
    info = data_dir / "cifar10/3.0.2/dataset_info.json"
    edit_json(info, lambda content: content["splits"].pop())
    expected = f'split "test" is not in {data_dir}/cifar10/3.0.2, which has train; '
    assert expected in failure(data_dir, "test")


def test_tfrecord_files_are_refused(data_dir):
    info = data_dir / "cifar10/3.0.2/dataset_info.json"
    edit_json(info, lambda content: content.update(fileFormat="tfrecord"))
    message = failure(data_dir)
    assert "stored as tfrecord" in message
    assert f"smallvit_jax.data.prepare cifar10 --data_dir={data_dir}/array_record" in message


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json"])
@pytest.mark.parametrize("content", [None, "", "{", "{}", "[]", '{"splits": 3}', "\x00\xff"])
def test_damaged_json_is_reported(data_dir, name, content):
    file = data_dir / "cifar10/3.0.2" / name
    if content is None:
        file.unlink()
    else:
        file.write_text(content)
    assert "dataset_info.json or features.json in " in failure(data_dir)


def test_missing_file_is_named(data_dir):
    shard(data_dir, number=1).unlink()
    assert f"{shard(data_dir, number=1)} is missing, one of the 2 files" in failure(data_dir)
    assert len(load_split("cifar10", "test", data_dir)[0]) == 7  # the other split is whole


@pytest.mark.parametrize("kept", [0, 1, 100, 65_536, 100_000, -1])
def test_half_copied_file_is_named(data_dir, kept):
    file = shard(data_dir)
    file.write_bytes(file.read_bytes()[:kept])
    assert f"{file} is incomplete or damaged (RuntimeError" in failure(data_dir)


def test_missing_records_are_reported(data_dir):
    def claim_more(content):
        content["splits"][0]["shardLengths"][1] = "12"

    edit_json(data_dir / "cifar10/3.0.2/dataset_info.json", claim_more)
    assert "has 11 records but dataset_info.json says 12" in failure(data_dir)


def test_damaged_record_is_named(data_dir):
    file = shard(data_dir, number=1)
    content = bytearray(file.read_bytes())
    content[20_000] ^= 0xFF
    file.write_bytes(bytes(content))
    message = failure(data_dir)
    number = int(message.removeprefix("record ").split(" ")[0])
    assert 12 <= number < 23  # the second file holds these
    assert f'of split "train" in {data_dir}/cifar10/3.0.2 cannot be read' in message


@pytest.mark.parametrize(
    ("bad", "label", "message"),
    [
        (b"\x00garbage", 1, 'record 2 of split "train" in {} cannot be read (UnidentifiedImage'),
        (b"", 1, 'record 2 of split "train" in {} cannot be read (UnidentifiedImageError: '),
        (encode(TRAIN[0][0])[:500], 1, 'record 2 of split "train" in {} cannot be read ('),
        (
            encode(np.zeros((40, 32, 3), np.uint8)),
            1,
            'image 2 of split "train" in {} is 40x32x3 uint8 instead of 32x32x3 uint8; ',
        ),
        (
            encode(np.zeros((32, 32, 4), np.uint8)),
            1,
            'image 2 of split "train" in {} is 32x32x4 uint8 instead of 32x32x3 uint8; ',
        ),
        (encode(TRAIN[0][0]), 10, 'record 2 of split "train" in {} has label 10, not one of'),
        (encode(TRAIN[0][0]), None, 'record 2 of split "train" in {} has label None, not one'),
    ],
    ids=["garbage", "empty", "cut off", "other size", "transparency", "label", "no label"],
)
def test_unusable_example_is_named(tmp_path, bad, label, message):
    examples = encoded(*TRAIN)[:4]
    examples[2] = (bad, label)
    folder = write_tfds(tmp_path, {"train": examples})
    assert failure(tmp_path).startswith(message.format(folder))


def test_wrong_number_of_classes_is_refused(tmp_path):
    write_tfds(tmp_path, {"train": encoded(*TRAIN)}, class_names=("cat", "dog"))
    assert "has 2 classes instead of 10" in failure(tmp_path)


def test_examples_without_labels_are_refused(data_dir):
    def rename(content):
        features = content["featuresDict"]["features"]
        features["target"] = features.pop("label")

    edit_json(data_dir / "cifar10/3.0.2/features.json", rename)
    assert 'need an "image" and a "label"' in failure(data_dir)


@pytest.mark.skipif(not FEW.is_dir(), reason="SMALLVIT_REAL_IMAGES has no tfds_small/")
def test_subset_of_real_cifar10_is_read():
    images, labels, info = load_split("cifar10", "train", FEW)
    assert images.shape == (2000, 32, 32, 3)
    assert np.bincount(labels, minlength=10).min() > 150
    np.testing.assert_allclose((images / 255).mean((0, 1, 2)), info.mean, atol=0.01)
    np.testing.assert_allclose((images / 255).std((0, 1, 2)), info.std, atol=0.01)
    assert info.class_names == CIFAR10_CLASSES


@pytest.mark.skipif(not WHOLE.is_dir(), reason="SMALLVIT_REAL_IMAGES has no tfds/")
@pytest.mark.parametrize(
    ("name", "split", "shape", "last_class"),
    [
        ("cifar100", "train", (1117, 32, 32, 3), "worm"),
        ("cifar100", "test", (916, 32, 32, 3), "worm"),
        pytest.param(
            *("tiny_imagenet", "test", (10_000, 64, 64, 3), "n12267677"),
            marks=pytest.mark.slow,  # half a minute on a busy machine
        ),
    ],
)
def test_subsets_of_real_datasets_are_read(name, split, shape, last_class):
    images, labels, info = load_split(name, split, WHOLE)
    assert images.shape == shape
    assert info.class_names[-1] == last_class
    counts = np.bincount(labels, minlength=info.num_classes)
    assert len(counts) == info.num_classes and counts.min() > 0
    if name == "tiny_imagenet":
        assert set(counts) == {50}
        assert np.ptp(images.astype(np.int16), axis=-1).max((1, 2)).min() == 0  # some are gray
    np.testing.assert_allclose((images / 255).mean((0, 1, 2)), info.mean, atol=0.015)
    np.testing.assert_allclose((images / 255).std((0, 1, 2)), info.std, atol=0.015)


def test_dataset_elsewhere_is_copied_here_once(original, tmp_path, monkeypatch):
    monkeypatch.setattr("smallvit_jax.process.remote.COPIES", str(tmp_path / "copies"))
    images, labels, _ = load_split("cifar10", "train", f"file://{original}/")
    np.testing.assert_array_equal(images, TRAIN[0])
    np.testing.assert_array_equal(labels, TRAIN[1])
    downloads = []
    monkeypatch.setattr(
        "smallvit_jax.process.remote.RemoteFolder.download",
        lambda self, names, folder: downloads.extend(names),
    )
    load_split("cifar10", "test", f"file://{original}")
    assert downloads == []
    empty = f"file://{tmp_path}/nothing"
    assert failure(empty) == f"dataset cifar10 is not in {empty}; copy it there"


def test_another_dataset_under_the_name_is_refused(data_dir):
    """svhn has as many classes, so only its recorded name tells."""
    (data_dir / "cifar10").rename(data_dir / "svhn_cropped")
    with pytest.raises(UserError, match="holds the dataset cifar10, not svhn_cropped"):
        load_split("svhn", "train", data_dir)
