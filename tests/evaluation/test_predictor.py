"""A trained model on new images from Python: files, folders, arrays, and unreadable files."""

import jax
import numpy as np
import pytest
from PIL import Image

import smallvit_jax
from smallvit_jax.errors import UserError
from smallvit_jax.evaluation import predictor
from tests.support.tiny_checkpoint import (
    CLASSES,
    MEAN,
    SIZE,
    STD,
    draw_images,
    expected,
    save_checkpoint,
    write_images,
)

NAMES = ["a.png", "b/deeper/ö.png", "b/z.png"]  # sorted by path


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "finetune"
    return folder, save_checkpoint(folder)


@pytest.fixture
def photos(tmp_path):
    """A folder with three images and three other files, and the images as an array."""
    images, root = draw_images(3), tmp_path / "photos"
    write_images(images, [root / name for name in NAMES])
    (root / "b" / "empty.jpg").write_bytes(b"")
    (root / "b" / "notes.txt").write_text("no image")
    (root / ".hidden.png").write_bytes(b"")
    return root, images


def test_folder_predictions_match_the_model(stage, photos, recwarn):
    (folder, model), (root, images) = stage, photos
    probabilities, features = expected(model, images)
    found = smallvit_jax.load_predictor(folder).predict(root)
    assert [f.name for f in found] == NAMES
    for prediction, row in zip(found, probabilities, strict=True):
        order = np.argsort(-row)
        assert prediction.classes == tuple(CLASSES[i] for i in order)
        np.testing.assert_allclose(prediction.probabilities, row[order], atol=1e-6)
    (warning,) = [str(w.message) for w in recwarn if "cannot be read" in str(w.message)]
    assert "2 of 5 files" in warning and "empty.jpg (empty)" in warning and "notes.txt" in warning

    embedded, names = smallvit_jax.load_predictor(folder, batch_size=2).embed(str(root))
    assert names == NAMES and embedded.dtype == np.float32
    np.testing.assert_allclose(embedded, features, atol=1e-5)


def test_files_lists_and_arrays_give_the_same_predictions(stage, photos):
    (folder, model), (root, images) = stage, photos
    probabilities, _ = expected(model, images)
    best = [CLASSES[i] for i in probabilities.argmax(axis=1)]
    loaded = smallvit_jax.load_predictor(folder)
    (one,) = loaded.predict(root / NAMES[1], top=1)
    assert (one.name, one.classes) == ("ö.png", (best[1],))
    some = loaded.predict([root / NAMES[2], str(root / NAMES[0])], top=1)
    assert [f.name for f in some] == [str(root / NAMES[2]), str(root / NAMES[0])]
    assert [f.classes[0] for f in some] == [best[2], best[0]]
    arrays = loaded.predict(images, top=2)
    assert [f.name for f in arrays] == ["0", "1", "2"]
    assert [f.classes[0] for f in arrays] == best
    assert all(len(f.classes) == 2 for f in arrays)


def test_photographs_of_any_shape_are_center_cropped(stage, tmp_path):
    folder, model = stage
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, 8:16] = draw_images(1)[0]
    write_images(wide[None], [tmp_path / "wide.png"])
    probabilities, _ = expected(model, wide[None, :, 8:16])
    (found,) = smallvit_jax.load_predictor(folder).predict(tmp_path / "wide.png")
    np.testing.assert_allclose(found.probabilities, np.sort(probabilities[0])[::-1], atol=1e-6)


def test_many_files_are_decoded_in_chunks(stage, photos, monkeypatch):
    (folder, _), (root, _) = stage, photos
    loaded = smallvit_jax.load_predictor(folder)
    whole = loaded.predict(root)
    monkeypatch.setattr(predictor, "_FILES_AT_ONCE", 2)  # of five: the second two are not images
    assert [(f.name, f.classes) for f in loaded.predict(root)] == [
        (f.name, f.classes) for f in whole
    ]
    assert [len(part.names) for part in loaded.outputs(root)] == [2, 1]


def test_photographs_are_squared_like_the_dataset(stage, tmp_path):
    (image,) = draw_images(1, 60)
    wide = Image.fromarray(image[:30])  # twice as wide as high
    wide.save(tmp_path / "wide.png")
    loaded = smallvit_jax.load_predictor(stage[0])
    middle = wide.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=(15, 0, 45, 30))
    squeezed = wide.resize((256, 256), Image.Resampling.BICUBIC)
    for dataset, square in (("folder", middle), ("cars", squeezed)):
        loaded.meta["dataset"] = dataset
        features, _ = loaded.embed(tmp_path / "wide.png")
        expected_features, _ = loaded.embed(np.asarray(square)[None])
        np.testing.assert_allclose(features, expected_features, atol=1e-6)


def test_backbone_has_features_but_no_classes(tmp_path):
    model = save_checkpoint(tmp_path / "pretrain", classes=())
    images = draw_images(2)
    loaded = smallvit_jax.load_predictor(tmp_path / "pretrain")
    features, names = loaded.embed(images)
    np.testing.assert_allclose(features, expected(model, images)[1], atol=1e-5)
    assert names == ["0", "1"] and loaded.class_names == ()
    with pytest.raises(UserError, match="has no classifier; fine-tune it first"):
        loaded.predict(images)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("missing", "there is no file or folder .*missing"),
        ("empty", "contains no images"),
        ("broken", "1 of 1 files in .*broken cannot be read as images, so none are left"),
        ([], "the list of images is empty"),
        (
            np.zeros((2, 8, 8, 3)),
            r"images are a float64 array of shape \(2, 8, 8, 3\); pass a nonempty uint8",
        ),
        (np.zeros((8, 8, 3), np.uint8), "images are a uint8 array of shape"),
        (np.zeros((0, 8, 8, 3), np.uint8), "images are a uint8 array of shape"),
    ],
)
def test_sources_without_images_are_refused(stage, tmp_path, source, words):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.jpg").write_text("x")
    source = tmp_path / source if isinstance(source, str) else source
    with pytest.raises(UserError, match=words):
        smallvit_jax.load_predictor(stage[0]).predict(source)


def test_classes_and_normalization_come_from_checkpoint(stage):
    loaded = smallvit_jax.load_predictor(stage[0])
    assert loaded.class_names == CLASSES and loaded.meta["step"] == 7
    assert (tuple(loaded.meta["mean"]), tuple(loaded.meta["std"])) == (MEAN, STD)
    assert jax.device_count() == 1  # which the test with eight devices assumes
