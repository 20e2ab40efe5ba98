"""What fine-tuning loads from a checkpoint: the backbone, adapted to another image size."""

import numpy as np
import pytest

from smallvit_jax.checkpoints.loading import check_same_model, load_backbone
from smallvit_jax.checkpoints.store import CheckpointStore
from smallvit_jax.errors import UserError
from smallvit_jax.models import create_model, resolve_options
from smallvit_jax.models.layers import resize_position_embedding
from smallvit_jax.models.parameters import get_arrays
from tests.support.tiny_jobs import SMALLEST

GRID = np.array([[0, 1, 4], [2, -1, 3], [5, 0, -2]], np.float32)
# torch.nn.functional.interpolate(GRID, size, mode="bicubic", align_corners=False) of PyTorch 2.13,
# in float64.
BICUBIC = {
    6: [
        [-0.360901, 0.009445, 0.583511, 2.016693, 3.499664, 4.410751],
        [0.330353, 0.263977, 0.112, 1.307831, 3.176178, 4.311768],
        [1.429047, 0.648987, -0.690491, 0.147369, 2.689423, 4.218628],
        [3.299316, 1.916153, -0.396072, -0.770905, 1.003326, 2.051346],
        [4.88501, 3.349899, 0.828995, -0.928436, -0.929962, -0.966202],
        [5.865997, 4.228363, 1.563751, -1.040619, -2.114044, -2.805023],
    ],
    4: [
        [-0.23594, 0.358039, 2.34015, 4.281957],
        [1.045807, -0.378981, 1.012837, 4.218226],
        [3.599386, 0.425757, -0.614547, 1.228184],
        [5.584523, 2.192306, -1.369204, -2.533353],
    ],
    2: [[0.263977, 3.176178], [3.349899, -0.929962]],
}


def options_of(family, **sizes):
    """Options of a tiny model, as fine-tuning derives them from the config."""
    return resolve_options(family, **SMALLEST[family], init="fan_in", **sizes)


@pytest.fixture
def hand_over(tmp_path):
    """Saves a backbone and loads it into a classifier: (before, after, sentence)."""

    def save_and_load(saved, target, **changed):
        arrays = {k: np.asarray(v) for k, v in get_arrays(create_model(**saved, seed=1)).items()}
        arrays |= changed
        meta = {"model": saved, "dataset": "", "class_names": [], "mean": [], "std": []}
        with CheckpointStore(tmp_path / "checkpoints", keep_best=False) as store:
            store.save(1, {"step": 1}, arrays, meta)
        model = create_model(**(target | {"num_classes": 3}))
        sentence = load_backbone(model, tmp_path, target)
        return arrays, get_arrays(model), sentence

    return save_and_load


@pytest.mark.parametrize("size", BICUBIC)
def test_grid_resize_matches_pytorch(size):
    resized = resize_position_embedding(GRID[..., None], size, size, surplus=0.0)
    np.testing.assert_allclose(resized[..., 0], BICUBIC[size], atol=3e-6)


@pytest.mark.parametrize("size", BICUBIC)
@pytest.mark.parametrize("family", ["vit", "cait"])
def test_positions_are_resized_to_another_image_size(hand_over, family, size):
    """The class token's position, if it has one, and all other arrays are unchanged."""
    class_token = np.full((1 if family == "vit" else 0, 1), 7, np.float32)
    tokens = np.concatenate([class_token, GRID.reshape(9, 1)])
    before, after, sentence = hand_over(
        options_of(family, image_size=12, patch_size=4),
        options_of(family, image_size=4 * size, patch_size=4),
        pos_embed=np.tile(tokens, 8)[None],
    )
    expected = np.concatenate([class_token, np.reshape(BICUBIC[size], (-1, 1))])
    np.testing.assert_allclose(after["pos_embed"], np.tile(expected, 8)[None], atol=3e-6)
    for name in before.keys() - {"pos_embed"}:
        np.testing.assert_array_equal(after[name], before[name], err_msg=name)
    assert f"position embeddings resized from 3 x 3 to {size} x {size} patches" in sentence
    assert "\n" not in sentence


@pytest.mark.parametrize("family", SMALLEST)
def test_same_grid_changes_nothing(hand_over, family):
    options = options_of(family, image_size=32)
    before, after, sentence = hand_over(options, options)
    for name in before:
        np.testing.assert_array_equal(after[name], before[name], err_msg=name)
    assert sorted(after.keys() - before.keys()) == ["head.bias", "head.kernel"]
    assert sentence.endswith("newly initialized: head.bias, head.kernel")


def test_fixed_positions_are_recomputed_for_the_new_grid(hand_over):
    variant = {"pool": "mean", "pos_embed": "sincos"}
    small, large = (options_of("vit", image_size=s, patch_size=4, **variant) for s in (16, 32))
    before, after, sentence = hand_over(small, large)
    for name in before:
        np.testing.assert_array_equal(after[name], before[name], err_msg=name)
    assert "from 4 x 4 to 8 x 8 patches, fixed position embeddings recomputed" in sentence


@pytest.mark.parametrize("option", ["pool", "pos_embed"])
def test_option_missing_from_old_checkpoint_has_its_default(hand_over, option):
    target = options_of("vit", image_size=32)
    saved = {name: value for name, value in target.items() if name != option}
    before, after, _ = hand_over(saved, target)
    assert before.keys() < after.keys()
    other = {"pool": "mean", "pos_embed": "sincos"}[option]
    with pytest.raises(
        UserError, match=f"model.{option} is {target[option]} there but {other} here"
    ):
        check_same_model(saved, target | {option: other}, "x")


def test_swin_loads_if_its_windows_stay_the_same(hand_over):
    """Grids of 16, 8 and 4 patches double in size; windows are 4 x 4 in all of them."""
    small, large = (options_of("swin", image_size=size, patch_size=2) for size in (32, 64))
    before, after, sentence = hand_over(small, large)
    for name in before:
        np.testing.assert_array_equal(after[name], before[name], err_msg=name)
    assert "grid changed from 16 x 16 to 32 x 32 patches, window position biases kept" in sentence


def test_swin_with_smaller_windows_is_refused(hand_over):
    large, small = (options_of("swin", image_size=size, patch_size=4) for size in (64, 32))
    with pytest.raises(UserError) as caught:
        hand_over(large, small)
    sentence = str(caught.value)
    assert "at 64 pixels with windows of 4 x 4 patches in stage 3" in sentence
    assert "but here the windows are 2 x 2" in sentence and "\n" not in sentence


@pytest.mark.parametrize("family", SMALLEST)
def test_another_patch_size_is_refused(hand_over, family):
    """The grid is the same at twice the image size, but patches are larger."""
    small, large = (options_of(family, image_size=size) for size in (32, 64))
    with pytest.raises(UserError) as caught:
        hand_over(small, large)
    sizes = f"model.patch_size is {small['patch_size']} there but {large['patch_size']} here"
    assert f"({sizes}, so the patch embedding does not fit)" in str(caught.value)


def test_conv_stem_statistics_load_at_another_image_size(hand_over):
    """The stem depends only on the patch size; its running statistics are kept."""
    statistics = {f"patch_embed.norms.1.{k}": np.full(4, 3, np.float32) for k in ("mean", "var")}
    sizes = ({"image_size": 12, "patch_size": 4}, {"image_size": 24, "patch_size": 4})
    before, after, sentence = hand_over(
        *(options_of("vit", stem="conv", **size) for size in sizes), **statistics
    )
    for name in before.keys() - {"pos_embed"}:
        np.testing.assert_array_equal(after[name], before[name], err_msg=name)
    assert "position embeddings resized from 3 x 3 to 6 x 6 patches" in sentence
