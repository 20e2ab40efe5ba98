"""Stanford Cars (Krause et al. 2013): photographs of 196 car models.

TFDS has a builder (cars196), but its download is no longer online.
"""

import io
import re
from collections.abc import Mapping

from smallvit_jax.data.builders.base import Labels, OriginalBuilder, square_jpeg
from smallvit_jax.data.builders.original import Original, OriginalLayout
from smallvit_jax.errors import UserError

_ANNOTATIONS = {"train": "cars_train_annos.mat", "test": "cars_test_annos_withlabels.mat"}
_META = "cars_meta.mat"
_MATLAB = (_META, *_ANNOTATIONS.values())
_PHOTOGRAPH = re.compile(r"(?:^|/)(cars_(?:train|test)/\d+\.jpg)$")
_IN_CLASS_FOLDER = re.compile(r"(?:^|/)((?:train|test)/[^/]+/[^/]+\.jpg)$")


def _recognize(path: str) -> str | None:
    name = path.rsplit("/", 1)[-1]
    if name in _MATLAB:
        return name
    match = _PHOTOGRAPH.search(path) or _IN_CLASS_FOLDER.search(path)
    return match[1] if match else None


class StanfordCars(OriginalBuilder):
    """8,144 training and 8,041 test photographs, scaled to squares as in `FgvcAircraft`: a car also
    fills the width of its photograph.

    Reads either the original files (cars_train, cars_test, devkit and
    cars_test_annos_withlabels.mat) or a copy with one folder per class. Classes are sorted by name,
    with "-" for "/", so that both give the same labels; the devkit numbers them differently.
    """

    SIZE = 256
    CLASSES = 196
    COUNTS = {"train": 8_144, "test": 8_041}  # noqa: RUF012
    LAYOUT = OriginalLayout(
        wanted="a folder with cars_train.tgz, cars_test.tgz, car_devkit.tgz and "
        "cars_test_annos_withlabels.mat, or a copy with class folders",
        archives=(
            *("cars_train.tgz", "cars_test.tgz", "car_devkit.tgz"),
            *("*stanford*car*.zip", "archive.zip"),  # names of Kaggle downloads
        ),
        contents=("cars_train", "cars_test", "devkit", "train", "test", *_MATLAB),
        signs=("cars_train", "train/Acura RL Sedan 2012", f"devkit/{_META}", *_MATLAB),
        recognize=_recognize,
    )
    HOMEPAGE = "https://www.kaggle.com/datasets/jutrera/stanford-car-dataset-by-classes-folder"
    DESCRIPTION = "Stanford Cars, 196 models, scaled to 256x256 pixels."

    def read_labels(self, original: Original) -> tuple[list[str], Mapping[str, Labels]]:
        """See the base class."""
        if any(_PHOTOGRAPH.search(key) for key in original.files):
            files = {split: _read_annotations(original, split) for split in self.COUNTS}
        else:
            files = {split: {} for split in self.COUNTS}
            for key in original.files:
                if _IN_CLASS_FOLDER.search(key):
                    split, name, _file = key.split("/")
                    files[split][key] = name
        files = {
            split: {key: name.replace("/", "-") for key, name in names.items()}
            for split, names in files.items()
        }
        class_names = sorted(set().union(*(names.values() for names in files.values())))
        label_of = {name: label for label, name in enumerate(class_names)}
        return class_names, {
            split: {key: label_of[name] for key, name in names.items()}
            for split, names in files.items()
        }

    def store(self, content: bytes) -> bytes:
        """See the base class."""
        return square_jpeg(content, self.SIZE)


def _read_annotations(original: Original, split: str) -> dict[str, str]:
    """The class name of each photograph in a split, from the devkit."""
    class_names = _read_matlab(original, _META, "class_names")
    annotations = _read_matlab(original, _ANNOTATIONS[split], "annotations")
    try:
        return {
            f"cars_{split}/{entry['fname']}": str(class_names[int(entry["class"]) - 1])
            for entry in annotations
        }
    except (IndexError, ValueError) as error:
        raise UserError(
            f"{_ANNOTATIONS[split]} in {original.path} does not give each photograph a class "
            f"({error}); download it again (cars_test_annos.mat has no labels and will not do)"
        ) from error


def _read_matlab(original: Original, file: str, variable: str):
    from scipy.io import loadmat

    if file not in original.files:
        raise UserError(
            f"{original.path} has photographs of cars but not {file}, which names their classes; "
            "get it from https://github.com/pytorch/vision/issues/7545 and put it next to them"
        )
    content = original.read_file(file)
    try:
        return loadmat(io.BytesIO(content), squeeze_me=True)[variable]
    except Exception as error:  # loadmat raises all kinds of errors
        raise UserError(
            f"{file} in {original.path} is damaged ({error}); download it again"
        ) from error
