"""Corruptions against the authors' own statistics, or against their formulas."""

import hashlib
import io
import subprocess
import sys

import numpy as np
import pytest
import scipy.ndimage
from PIL import Image

from smallvit_jax.evaluation.corruptions import KINDS, SEVERITIES, corrupt, missing_kinds
from smallvit_jax.evaluation.corruptions import spatter as spatter_module
from smallvit_jax.evaluation.corruptions.draws import Draws
from smallvit_jax.evaluation.corruptions.frost_photographs import _shrink, frost_photographs
from smallvit_jax.evaluation.corruptions.resampling import fold_at_edges, fold_at_pixels
from smallvit_jax.evaluation.corruptions.table import CORRUPTIONS
from tests.evaluation.frost_pictures import BRIGHTNESS, install_frost_pictures

DRAWS = 250  # per setting, against the authors' 200


def golden_image() -> np.ndarray:
    y, x, c = np.mgrid[:32, :32, :3]
    return np.floor(128 + 100 * np.sin(0.35 * y + 0.2 * c) * np.cos(0.27 * x - 0.4 * c)).astype(
        np.uint8
    )


def some_images(count: int, size: int) -> np.ndarray:
    """Smooth colors with sharp edges and full black and white."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(-60, 316, (count, size // 8, size // 8, 3))
    smooth = scipy.ndimage.zoom(coarse.astype(float), (1, 8, 8, 1), order=1)
    smooth[:, size // 4 : size // 2, size // 4 : size // 2] += 90
    return smooth.clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("kind", KINDS)
def test_statistics_match_the_authors(kind, golden):
    if kind in missing_kinds():
        pytest.skip(missing_kinds()[kind])
    image = golden_image()
    for severity in SEVERITIES:
        case = golden("corruptions_cifar")["cases"][f"{kind}_{severity}"]
        if case["kind"] == "deterministic":
            (made,) = corrupt(image[None], kind, severity)
            assert made.ravel()[:24].tolist() == case["first24"]
            assert hashlib.sha256(made.tobytes()).hexdigest()[:16] == case["sha"]
            continue
        made = corrupt(np.repeat(image[None], DRAWS, 0), kind, severity).astype(float)
        statistics = {
            "mean": made.mean((1, 2, 3)),
            "std": made.std((1, 2, 3)),
            "mad": np.abs(made - image).mean((1, 2, 3)),
        }
        for name, values in statistics.items():
            recorded, spread = case[name], case[f"{name}_sd"]
            error = np.sqrt(spread**2 / case["seeds"] + values.var() / DRAWS)
            assert abs(values.mean() - recorded) < 4 * error, (severity, name)
            assert 0.7 < values.std() / spread < 1.4, (severity, name)


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("kind", KINDS)
def test_corruption_does_not_depend_on_the_batch(kind, size, tmp_path, monkeypatch):
    install_frost_pictures(tmp_path, monkeypatch)
    images = some_images(4, size)
    for severity in (1, 5):
        whole = corrupt(images, kind, severity)
        assert whole.shape == images.shape and whole.dtype == np.uint8
        assert not np.array_equal(whole, images)
        part = corrupt(images[[3, 1]], kind, severity, indices=[3, 1])
        np.testing.assert_array_equal(part, whole[[3, 1]])
    frost_photographs.cache_clear()


@pytest.mark.parametrize("kind", ["gaussian_noise", "motion_blur", "snow", "fog", "spatter"])
def test_images_and_severities_draw_independently(kind):
    image = np.repeat(golden_image()[None], 2, 0)
    first, second = corrupt(image, kind, 1)
    assert not np.array_equal(first, second)
    draws = [Draws(kind, severity, [0]).normal((50,)) for severity in (1, 2)]
    assert not np.array_equal(*draws)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_noise_at_64_pixels_has_expected_mean_and_std(severity):
    """On a plain gray of 102 = .4 x 255, with the constants for 64 pixels."""
    gray = np.full((20, 64, 64, 3), 102, np.uint8)
    expected = {
        "gaussian_noise": 255 * (0.04, 0.08, 0.12, 0.15, 0.18)[severity - 1],
        "shot_noise": 255 * np.sqrt(0.4 / (250, 100, 50, 30, 15)[severity - 1]),
        "speckle_noise": 102 * (0.15, 0.2, 0.25, 0.3, 0.35)[severity - 1],
    }
    for kind, std in expected.items():
        made = corrupt(gray, kind, severity)
        assert made.mean() == pytest.approx(101.5, abs=1.0)  # half a level is lost by truncation
        assert made.std() == pytest.approx(std, rel=0.03)
    amount = (0.01, 0.02, 0.05, 0.08, 0.14)[severity - 1]
    hit = corrupt(gray, "impulse_noise", severity)
    assert (hit == 255).mean() == pytest.approx(amount / 2, rel=0.06)
    assert (hit == 0).mean() == pytest.approx(amount / 2, rel=0.06)


def test_glass_blur_matches_the_authors_loops():
    """At 64 pixels the reach is 2, and a pixel can be moved more than once."""
    sigma, reach, rounds = CORRUPTIONS["glass_blur"].constants[64][4]
    image = some_images(3, 64)
    places = range(64 - reach, reach, -1)
    steps = Draws("glass_blur", 5, range(3)).integers(
        -reach, reach, (rounds, len(places), len(places), 2)
    )
    blur = {"sigma": (sigma, sigma, 0), "mode": "nearest"}
    for number in range(3):
        x = np.uint8(scipy.ndimage.gaussian_filter(image[number] / 255.0, **blur) * 255)
        for moves in steps[number]:
            for h, row in zip(places, moves, strict=True):
                for w, (dx, dy) in zip(places, row, strict=True):
                    x[h, w], x[h + dy, w + dx] = x[h + dy, w + dx], x[h, w]
        expected = np.uint8(scipy.ndimage.gaussian_filter(x / 255.0, **blur).clip(0, 1) * 255)
        made = corrupt(image, "glass_blur", 5)[number]
        np.testing.assert_array_equal(made, expected)


def test_zoom_blur_is_the_mean_of_scipy_zooms():
    image = some_images(1, 64)[0]
    unit = (image / 255).astype(np.float32)
    factors = np.arange(1, 1.16, 0.01)
    total = np.zeros_like(unit)
    for factor in factors:
        kept = int(np.ceil(64 / factor))
        top = (64 - kept) // 2
        inner = unit[top : top + kept, top : top + kept]
        zoomed = scipy.ndimage.zoom(inner, (factor, factor, 1), order=1)
        trim = (len(zoomed) - 64) // 2
        total += zoomed[trim : trim + 64, trim : trim + 64]
    expected = np.clip((unit + total) / (len(factors) + 1), 0, 1) * 255
    made = corrupt(image[None], "zoom_blur", 3)[0]
    np.testing.assert_array_equal(made, expected.astype(np.uint8))


@pytest.mark.parametrize("severity", SEVERITIES)
def test_blurred_point_equals_the_kernel_at_64_pixels(severity):
    point = np.zeros((1, 64, 64, 3), np.uint8)
    point[0, 32, 32] = 255
    y, x = np.mgrid[-32:32, -32:32]
    sigma = (0.5, 0.75, 1, 1.25, 1.5)[severity - 1]
    radius, edge = ((0.5, 0.6), (1, 0.1), (1.5, 0.1), (2.5, 0.01), (3, 0.1))[severity - 1]
    disk = (x**2 + y**2 <= radius**2).astype(float)
    soft = np.array([np.exp(-1 / (2 * edge**2)), 1, np.exp(-1 / (2 * edge**2))])
    kernels = {
        "gaussian_blur": np.exp(-(x**2 + y**2) / (2 * sigma**2)),
        "defocus_blur": scipy.ndimage.convolve(disk, soft[:, None] * soft),
    }
    for kind, kernel in kernels.items():
        function, constants = CORRUPTIONS[kind]
        made = function(point, Draws(kind, severity, [0]), *constants[64][severity - 1])
        for channel in range(3):
            expected = 255 * kernel / kernel.sum()
            np.testing.assert_allclose(made[0, :, :, channel], expected, atol=0.02)


def test_color_corruptions_at_64_pixels():
    """Pure colors, whose hue, saturation and value are easy to compute."""
    image = np.zeros((1, 64, 64, 3), np.uint8)
    image[..., :32, :] = (100, 50, 50)
    image[..., 32:, :] = (10, 30, 20)
    brighter = corrupt(image, "brightness", 1)[0]
    # The value rises by 25.5, the saturation stays: 100 -> 125.5, 50 -> 62.75.
    assert brighter[0, 0].tolist() == [125, 62, 62]
    assert brighter[0, 40].tolist() == [18, 55, 37]  # x (30 + 25.5) / 30: 18.5, 55.5, 37
    paler = corrupt(image, "saturate", 1)[0]
    assert paler[0, 0] == pytest.approx([100, 85, 85], abs=1)  # saturation .5 -> .15
    flatter = corrupt(image, "contrast", 2)[0]
    assert flatter[0, 0] == pytest.approx([55 + 45 * 0.3, 40 + 10 * 0.3, 35 + 15 * 0.3], abs=1)
    gray = np.full((1, 64, 64, 3), 7, np.uint8)
    assert corrupt(gray, "saturate", 1).tolist() == gray.tolist()


@pytest.mark.parametrize(("severity", "quality"), [(1, 65), (2, 58), (3, 50), (4, 40), (5, 25)])
def test_jpeg_at_64_pixels_matches_pillow(severity, quality):
    image = some_images(1, 64)
    buffer = io.BytesIO()
    Image.fromarray(image[0]).save(buffer, "JPEG", quality=quality)
    expected = np.asarray(Image.open(buffer))
    np.testing.assert_array_equal(corrupt(image, "jpeg_compression", severity)[0], expected)


def test_pixelate_averages_four_pixels():
    image = some_images(1, 64)
    made = corrupt(image, "pixelate", 5)[0].reshape(32, 2, 32, 2, 3)
    means = image[0].reshape(32, 2, 32, 2, 3).mean((1, 3))
    assert (made == made[:, :1, :, :1]).all()
    np.testing.assert_allclose(made[:, 0, :, 0], means, atol=1)  # rounded twice


def test_elastic_without_displacement_is_affine():
    """At severity 1 a plane of gray levels stays a plane."""
    y, x = np.mgrid[:32, :32]
    plane = np.repeat((60 + 2.0 * x + 1.5 * y)[None, ..., None], 3, axis=3)
    made = corrupt(np.repeat(plane.astype(np.uint8), 4, 0), "elastic_transform", 1)
    inner = made[:, 11:21, 11:21, 0].astype(float)
    y, x = np.mgrid[:10, :10]
    design = np.stack([np.ones(100), y.ravel(), x.ravel()], axis=1)
    slopes, *_ = np.linalg.lstsq(design, inner.reshape(4, 100).T, rcond=None)
    assert np.abs(design @ slopes - inner.reshape(4, 100).T).max() < 2
    assert np.abs(slopes[1:] - [[1.5], [2.0]]).max() > 0.1


def test_fog_keeps_black_and_darkens_white():
    black = np.zeros((2, 32, 32, 3), np.uint8)
    assert corrupt(black, "fog", 3).max() == 0
    white = corrupt(255 + black, "fog", 3).astype(float)
    # 255 (1 + .75 cloud) / 1.75, clouds of 0 to 1
    assert white.min() == pytest.approx(255 / 1.75, abs=1) and white.max() >= 254


def test_frost_adds_its_photographs(tmp_path, monkeypatch):
    install_frost_pictures(tmp_path, monkeypatch)
    image = np.full((40, 32, 32, 3), 100, np.uint8)
    made = corrupt(image, "frost", 3)[:, 5, 5, 0]
    expected = {int(0.9 * 100 + 0.4 * level) for level in BRIGHTNESS}
    assert set(made.tolist()) == expected
    assert "imagecorruptions" not in sys.modules
    frost_photographs.cache_clear()


def test_photographs_are_shrunk_by_sampling():
    picture = np.random.default_rng(0).integers(0, 256, (103, 52, 3)).astype(np.uint8)
    np.testing.assert_array_equal(_shrink(picture, 0.2), picture[2:103:5, 2:52:5])
    ramp = np.repeat(np.arange(100, dtype=np.uint8)[:, None, None], 3, 2)
    ramp = np.repeat(ramp, 10, 1)
    places = (np.arange(30) + 0.5) / 0.3 - 0.5
    np.testing.assert_allclose(_shrink(ramp, 0.3)[:, 0, 0], places, atol=0.51)


def test_distances_are_shortest_paths():
    edges = np.random.default_rng(1).random((3, 24, 24)) < 0.01
    y, x = np.mgrid[:24, :24]
    for image, mask in zip(spatter_module._distances(edges), edges, strict=True):
        for row, column in ((0, 0), (5, 17), (12, 12), (23, 3)):
            far = np.stack([abs(y - row), abs(x - column)])[:, mask]
            long, short = far.max(0), far.min(0)
            knights, diagonals = np.minimum(short, long - short), np.maximum(0, 2 * short - long)
            straight = long - 2 * knights - diagonals
            paths = 2.1969 * knights + 1.4 * diagonals + straight
            expected = min(paths.min(initial=20.0), 20.0)
            assert image[row, column] == pytest.approx(expected)


def test_canny_marks_the_outline_of_a_square():
    layer = np.zeros((2, 16, 16), np.uint8)
    layer[0, 4:12, 4:12] = 200
    layer[1, 4:12, 4:12] = 5  # its gradients stay below the thresholds
    edges = spatter_module._canny(layer, 50, 150)
    assert not edges[1].any()
    inside = scipy.ndimage.binary_dilation(layer[0] > 0, iterations=1)
    core = scipy.ndimage.binary_erosion(layer[0] > 0, iterations=2)
    assert edges[0].sum() >= 24 and not (edges[0] & ~inside).any() and not (edges[0] & core).any()


def test_weak_edges_count_only_next_to_strong_ones():
    layer = np.zeros((2, 12, 12), np.uint8)
    layer[:, :6, 6:] = 25  # gradient 100, above only the low threshold
    layer[0, 6:, 6:] = 60
    weak, alone = spatter_module._canny(layer, 50, 150)[:, :4].any(axis=(1, 2))
    assert weak and not alone


def test_equalized_levels_are_ranks():
    levels = np.array([[[3, 3, 5, 5], [5, 9, 9, 9]], [[7] * 4] * 2], np.uint8)
    equal = spatter_module._equalize(levels)
    # (count up to the level - count of the lowest) / (8 - 2) x 255
    assert equal[0].tolist() == [[0, 0, 128, 128], [128, 255, 255, 255]]
    assert equal[1].tolist() == levels[1].tolist()


@pytest.mark.parametrize("fold", [fold_at_pixels, fold_at_edges])
def test_folds_match_numpy_padding(fold):
    mode = {fold_at_pixels: "reflect", fold_at_edges: "symmetric"}[fold]
    expected = np.pad(np.arange(5), 12, mode=mode)
    np.testing.assert_array_equal(fold(np.arange(-12, 17), 5), expected)


def test_workers_do_not_import_jax():
    code = (
        "import sys, numpy as np\n"
        "from smallvit_jax.evaluation.corruptions import corrupt\n"
        "import smallvit_jax.evaluation.corruptions.generated\n"
        "corrupt(np.zeros((1, 32, 32, 3), np.uint8), 'snow', 1)\n"
        "assert 'jax' not in sys.modules, 'JAX was imported'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
