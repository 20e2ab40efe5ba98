"""Whole splits: processes, order and the cache do not change the images."""

import numpy as np
import pytest

from smallvit_jax.evaluation.corruptions import corrupt, generated
from smallvit_jax.evaluation.corruptions.cache import CorruptionCache
from smallvit_jax.evaluation.corruptions.generated import corrupted_splits
from tests.data.tiny_tfds import tiny_images

SETTINGS = [("gaussian_noise", 2), ("contrast", 1), ("impulse_noise", 5), ("fog", 3), ("snow", 1)]
IMAGES = tiny_images(7)[0]
INDICES = np.array([3, 8, 9, 100, 4000, 9000, 9999])


@pytest.fixture(scope="module")
def expected() -> dict:
    return {setting: corrupt(IMAGES, *setting, INDICES) for setting in SETTINGS}


def check(splits, expected, settings=SETTINGS) -> None:
    made = list(splits)
    assert [(kind, severity) for kind, severity, _ in made] == list(settings)
    for kind, severity, images in made:
        np.testing.assert_array_equal(images, expected[kind, severity])


def make(expected, settings=SETTINGS, **options) -> None:
    check(corrupted_splits(IMAGES, INDICES, settings, **options), expected, settings)


@pytest.fixture
def counted(monkeypatch):
    """The settings that were generated instead of read from the cache."""
    made = []

    def counting(images, kind, severity, indices):
        made.append((kind, severity))
        return corrupt(images, kind, severity, indices)

    monkeypatch.setattr(generated, "corrupt", counting)
    return made


def test_chunks_and_processes_do_not_change_images(expected, monkeypatch):
    monkeypatch.setattr(generated, "_IMAGES_AT_ONCE", 3)
    make(expected)
    make(expected, processes=2)


def test_stopping_early_ends_the_processes(monkeypatch):
    splits = corrupted_splits(IMAGES, INDICES, SETTINGS, processes=2)
    assert next(splits)[0] == "gaussian_noise"
    splits.close()  # waits for them


def test_cached_images_are_not_generated_again(expected, counted, tmp_path):
    cache = CorruptionCache(tmp_path, "cifar10", IMAGES, INDICES)
    make(expected, cache=cache)
    assert counted == SETTINGS
    make(expected, SETTINGS[::-1], cache=cache)
    assert counted == SETTINGS
    others = CorruptionCache(tmp_path, "cifar10", IMAGES, INDICES + 1)
    assert others.read(*SETTINGS[0]) is None  # the same images with other indices


@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied", "other"])
def test_damaged_cache_files_are_generated_again(expected, counted, tmp_path, damage):
    cache = CorruptionCache(tmp_path, "cifar10", IMAGES, INDICES)
    make(expected, SETTINGS[:2], cache=cache)
    path = cache.path(*SETTINGS[0])
    content = bytearray(path.read_bytes())
    if damage == "cut":
        content = content[: len(content) // 2]
    elif damage == "flipped":
        content[len(content) // 2] ^= 1
    elif damage == "emptied":
        content = b""
    path.write_bytes(content)
    if damage == "other":
        np.savez(path, images=IMAGES[:2])
    counted.clear()
    make(expected, SETTINGS[:2], cache=cache)
    assert counted == SETTINGS[:1]
    np.testing.assert_array_equal(cache.read(*SETTINGS[0]), expected[SETTINGS[0]])


def test_unwritable_cache_gives_one_warning(expected, tmp_path, capsys):
    blocked = tmp_path / "file"
    blocked.write_text("")
    make(expected, cache=CorruptionCache(blocked, "cifar10", IMAGES, INDICES))
    warning = capsys.readouterr().err
    assert warning.count("\n") == 1 and "evaluate.corruptions.cache" in warning


def test_read_only_cache_writes_nothing(expected, tmp_path):
    make(expected, cache=CorruptionCache(tmp_path, "x", IMAGES, INDICES, write=False))
    assert not list(tmp_path.iterdir())
