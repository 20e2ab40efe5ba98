"""Errors on corrupted images, checked by hand with a stand-in for a model."""

import dataclasses

import numpy as np
import pytest

from smallvit_jax.config import default_config
from smallvit_jax.data.reading import DatasetInfo
from smallvit_jax.errors import UserError
from smallvit_jax.evaluation.corruptions import BENCHMARK_KINDS, KINDS, SEVERITIES
from smallvit_jax.evaluation.corruptions.frost_photographs import frost_photographs
from smallvit_jax.evaluation.robustness import (
    CorruptedImages,
    corrupted_images,
    corruption_errors,
    error_table,
)
from tests.evaluation.frost_pictures import install_frost_pictures

INFO = DatasetInfo("cifar10", tuple("ab"), 2, 32, (0.5,) * 3, (0.25,) * 3)
# Dark images are class 0, bright ones class 1.
LABELS = np.array([0, 1, 0, 1, 0, 1, 1, 1], np.int32)
IMAGES = np.broadcast_to(np.where(LABELS, 180, 40)[:, None, None, None], (8, 32, 32, 3)).astype(
    np.uint8
)


def settings(**fields):
    corruptions = default_config().evaluate.corruptions
    corruptions.update({"kinds": 19, "cache": "", "processes": 1} | fields)
    return corruptions


def prepare(data_dir=None, test_images=IMAGES, info=INFO, **fields) -> CorruptedImages:
    return corrupted_images(
        settings(**fields), images=test_images, labels=LABELS, dataset=info, data_dir=data_dir
    )


def by_brightness(images: np.ndarray) -> np.ndarray:
    bright = images.mean((1, 2, 3)) > 110
    return np.stack([~bright, bright], axis=1).astype(np.float32)


def without_frost(monkeypatch):
    reason = {"frost": "its photographs are not installed"}
    monkeypatch.setattr("smallvit_jax.evaluation.robustness.missing_kinds", lambda: reason)


def test_errors_and_means_match_a_count_by_hand():
    wrong = {kind: 1 + number % 4 for number, kind in enumerate(KINDS)}

    def splits():
        for kind in KINDS:
            for severity in SEVERITIES:
                images = np.zeros((8, 32, 32, 3), np.uint8)
                images[: wrong[kind] if severity > 2 else 0] = 255
                yield kind, severity, images, np.zeros(8, np.int32)

    result = corruption_errors(CorruptedImages("X-C", 8, KINDS, splits), by_brightness)
    for kind in KINDS:
        share = 100 * wrong[kind] / 8
        assert result["errors"][kind] == pytest.approx([0, 0, share, share, share])
    by_kind = [60 * wrong[kind] / 8 for kind in KINDS]
    assert result["mce15"] == pytest.approx(np.mean(by_kind[:15]))
    assert result["mce19"] == result["mean_error"] == pytest.approx(np.mean(by_kind))
    lines = error_table(result).splitlines()
    assert len(lines) <= 24 and max(map(len, lines)) <= 80  # fits a screen
    assert lines[-1].split()[-1] == f"{result['mce15']:.2f}"


def test_regenerated_images_keep_labels_and_name_source(tmp_path, monkeypatch):
    install_frost_pictures(tmp_path, monkeypatch)
    result = corruption_errors(prepare(data_dir=tmp_path), by_brightness)
    frost_photographs.cache_clear()
    assert result["source"] == "CIFAR-10-C (regenerated)" and result["images"] == 8
    assert tuple(result["errors"]) == KINDS and result["skipped"] == {}
    assert {len(errors) for errors in result["errors"].values()} == {5}
    # Blur, contrast and noise hardly move the mean of a plain image: wrong labels would show.
    for kind in ("gaussian_noise", "motion_blur", "contrast", "jpeg_compression"):
        assert result["errors"][kind] == [0.0] * 5, kind
    # 40 + .3 x 255 = 116.5 counts as bright: the three dark images are wrong.
    assert result["errors"]["brightness"] == [0.0, 0.0, 0.0, 0.0, 37.5]


def test_mean_without_every_kind_is_not_named_mce(monkeypatch, tmp_path):
    without_frost(monkeypatch)
    result = corruption_errors(prepare(data_dir=tmp_path, kinds=15), by_brightness)
    assert "frost" not in result["errors"] and len(result["errors"]) == 14
    assert result["skipped"] == {"frost": "its photographs are not installed"}
    assert "mce15" not in result and "mce19" not in result
    assert result["mean_error"] == pytest.approx(np.mean(list(result["errors"].values())))
    lines = error_table(result).splitlines()
    assert lines[-1] == "  skipped: frost (its photographs are not installed)"
    assert lines[-2].startswith("  mean of 14 ") and not any("of the 15" in line for line in lines)


def test_benchmark_kinds_alone_have_one_mean(tmp_path, monkeypatch):
    install_frost_pictures(tmp_path, monkeypatch)
    corrupted = prepare(data_dir=tmp_path, kinds=15)
    frost_photographs.cache_clear()
    assert corrupted.kinds == BENCHMARK_KINDS
    zeros = (
        (kind, severity, IMAGES, LABELS) for kind in BENCHMARK_KINDS for severity in SEVERITIES
    )
    result = corruption_errors(
        dataclasses.replace(corrupted, splits=lambda: zeros),
        lambda images: 1 - by_brightness(images),
    )
    assert result["mce15"] == 100.0 and "mce19" not in result
    lines = error_table(result).splitlines()
    assert lines[0] == "CIFAR-10-C (regenerated): top-1 error in % on 8 images"
    assert lines[2].split() == ["gaussian", "noise", *["100.00"] * 6] and len(lines) == 18


def test_image_subset_is_stratified(monkeypatch, tmp_path):
    without_frost(monkeypatch)
    corrupted = prepare(data_dir=tmp_path, images=4)
    assert corrupted.images == 4
    whole = {k[:2]: k[2:] for k in prepare(data_dir=tmp_path).splits()}
    for kind, severity, images, labels in corrupted.splits():
        assert sorted(labels) in ([0, 1, 1, 1], [0, 0, 1, 1])
        all_images, _ = whole[kind, severity]
        # Each is an image of the full set with the same random draws.
        same = (all_images[:, None] == images[None]).all((2, 3, 4))
        assert same.any(axis=0).all()


def write_published(folder):
    folder.mkdir()
    order = np.random.default_rng(0).permutation(8)
    for kind in KINDS:
        np.save(folder / f"{kind}.npy", np.tile(IMAGES[order], (5, 1, 1, 1)))
    np.save(folder / "labels.npy", np.tile(LABELS[order], 5))


@pytest.mark.parametrize("source", ["auto", "official"])
@pytest.mark.parametrize("count", [0, 4])
def test_published_files_are_used_and_named(tmp_path, source, count):
    write_published(tmp_path / "CIFAR-10-C")
    corrupted = prepare(root=str(tmp_path), source=source, images=count)
    result = corruption_errors(corrupted, by_brightness)
    assert result["source"] == "CIFAR-10-C (official)" and result["images"] == (count or 8)
    assert result["mce19"] == 0.0  # every image with its own label


def test_regenerated_images_can_be_requested(tmp_path, monkeypatch):
    without_frost(monkeypatch)
    write_published(tmp_path / "CIFAR-10-C")
    corrupted = prepare(root=str(tmp_path), source="regenerated")
    assert corrupted.name == "CIFAR-10-C (regenerated)"


def test_impossible_settings_are_refused_early(tmp_path):
    with pytest.raises(UserError, match=r"32 and 64 pixels, but those of digits have 16"):
        prepare(test_images=IMAGES[:, :16, :16], info=dataclasses.replace(INFO, name="digits"))
    with pytest.raises(UserError, match="published images of CIFAR-10-C are not"):
        prepare(data_dir=tmp_path, source="official")
    with pytest.raises(UserError, match="contains neither"):
        prepare(root=str(tmp_path))


def test_images_are_cached(tmp_path, monkeypatch):
    without_frost(monkeypatch)
    corrupted = prepare(data_dir=tmp_path, cache=str(tmp_path / "kept"))
    first = [split[2] for split in corrupted.splits()]
    assert len(list((tmp_path / "kept").glob("cifar10-*/*.npz"))) == 18 * 5
    for before, after in zip(first, corrupted.splits(), strict=True):
        np.testing.assert_array_equal(before, after[2])
