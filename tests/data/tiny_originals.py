"""Makes datasets of a few images in the layouts that their authors distribute.

Each function writes an unpacked original into a folder and returns the expected labels by split and
image file.
"""

import io
import shutil
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

WORDNET_IDS = ("n02124075", "n01443537", "n07747607")  # unsorted, as in the original
CINIC_CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
VARIANTS = ("707-320", "A340-300", "F/A-18")
CARS = ("Acura TSX Sedan 2012", "Acura RL Sedan 2012", "Ram C/V Cargo Van Minivan 2012")


def picture(seed: int, width: int, height: int, gray: bool = False) -> Image.Image:
    """A smooth random picture."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR)
    return image.convert("L") if gray else image


def save(image: Image.Image, path: Path) -> Path:
    """Writes an image in the format given by the file name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


def tiny_imagenet(folder: Path) -> dict[str, dict[str, int]]:
    """Three classes with four training images each, one of them gray, and five for validation."""
    order = sorted(WORDNET_IDS)
    labels = {"train": {}, "validation": {}}
    for number, wordnet_id in enumerate(WORDNET_IDS):
        for image in range(4):
            file = f"train/{wordnet_id}/images/{wordnet_id}_{image}.JPEG"
            save(picture(10 * number + image, 64, 64, gray=image == 3), folder / file)
            labels["train"][file] = order.index(wordnet_id)
        (folder / f"train/{wordnet_id}/{wordnet_id}_boxes.txt").write_text("boxes\n")
    lines = []
    for image in range(5):
        wordnet_id = WORDNET_IDS[image % 3]
        save(picture(100 + image, 64, 64), folder / f"val/images/val_{image}.JPEG")
        lines.append(f"val_{image}.JPEG\t{wordnet_id}\t0\t32\t44\t62\n")
        labels["validation"][f"val/images/val_{image}.JPEG"] = order.index(wordnet_id)
    (folder / "val/val_annotations.txt").write_text("".join(lines))
    save(picture(200, 64, 64), folder / "test/images/test_0.JPEG")
    (folder / "wnids.txt").write_text("\n".join(WORDNET_IDS) + "\n")
    (folder / "words.txt").write_text(
        "n00001740\tentity\nn01443537\tgoldfish, Carassius auratus\n"
        "n02124075\tEgyptian cat\nn07747607\torange\n"
    )
    return labels


def cinic10(folder: Path) -> dict[str, dict[str, int]]:
    """One image of each class and split."""
    labels = {split: {} for split in ("train", "valid", "test")}
    for split, files in labels.items():
        for label, name in enumerate(CINIC_CLASSES):
            file = f"{split}/{name}/n0{label}-{split}.png"
            save(picture(len(files), 32, 32, gray=label == 9), folder / file)
            files[file] = label
    return labels


def aircraft(folder: Path) -> dict[str, dict[str, int]]:
    """Photographs with a white banner of 20 rows, for three variants."""
    labels = {"trainval": {}, "test": {}}
    (folder / "data").mkdir(parents=True)
    for split, count in (("trainval", 6), ("test", 3)):
        lines = []
        for number in range(count):
            name = f"{1000 * count + number:07d}"
            photograph = picture(number, 300, 200)
            photograph.paste((255, 255, 255), (0, 180, 300, 200))
            save(photograph, folder / f"data/images/{name}.jpg")
            lines.append(f"{name} {VARIANTS[number % 3]}\n")
            labels[split][f"images/{name}.jpg"] = number % 3
        (folder / f"data/images_variant_{split}.txt").write_text("".join(lines))
    (folder / "data/variants.txt").write_text("\n".join(VARIANTS) + "\n")
    return labels


def cars(folder: Path) -> dict[str, dict[str, int]]:
    """The original files, for three car models."""
    from scipy.io import savemat

    names = sorted(name.replace("/", "-") for name in CARS)
    labels = {"train": {}, "test": {}}
    (folder / "devkit").mkdir(parents=True)
    savemat(folder / "devkit/cars_meta.mat", {"class_names": np.array(CARS, object)})
    for split, count in (("train", 5), ("test", 4)):
        kind = [("class", float), ("fname", object)]
        annotations = np.array([(n % 3 + 1, f"{n + 1:05d}.jpg") for n in range(count)], kind)
        file = {"train": "devkit/cars_train_annos", "test": "cars_test_annos_withlabels"}[split]
        savemat(folder / f"{file}.mat", {"annotations": annotations[None]})
        for number in range(count):
            path = f"cars_{split}/{number + 1:05d}.jpg"
            save(picture(number, 330, 220, gray=number == 1), folder / path)
            labels[split][path] = names.index(CARS[number % 3].replace("/", "-"))
    return labels


def cars_by_class(folder: Path) -> dict[str, dict[str, int]]:
    """The copy with one folder per class inside two nested folders, as on Kaggle."""
    names = sorted(name.replace("/", "-") for name in CARS)
    labels = {"train": {}, "test": {}}
    for split, count in (("train", 5), ("test", 4)):
        for number in range(count):
            name = names[number % 3]
            path = f"{split}/{name}/{number + 1:05d}.jpg"
            save(picture(number, 330, 220), folder / "car_data/car_data" / path)
            labels[split][path] = number % 3
    return labels


# By dataset: the function that makes its original, and the number of classes in it.
ORIGINALS = {
    "cinic10": (cinic10, 10),
    "tiny_imagenet": (tiny_imagenet, 3),
    "aircraft": (aircraft, 3),
    "cars": (cars, 3),
}


def expect(monkeypatch, name: str, classes: int, labels: dict[str, dict[str, int]]) -> None:
    """Makes the package expect only these classes and images instead of the full dataset."""
    from smallvit_jax.data.builders import own_builder
    from smallvit_jax.data.datasets import DATASETS

    builder = own_builder(DATASETS[name].builder)
    monkeypatch.setitem(DATASETS, name, replace(DATASETS[name], num_classes=classes))
    monkeypatch.setattr(builder, "CLASSES", classes)
    counts = {split: len(files) for split, files in labels.items()}
    monkeypatch.setattr(builder, "COUNTS", counts)


def pack(folder: Path, archive: Path, members: tuple[str, ...] = ()) -> Path:
    """Packs a folder under its own name, or its `members`, into a .zip or a compressed .tar."""
    roots = [folder / member for member in members] or [folder]
    base = folder if members else folder.parent
    files = [path for root in roots for path in sorted(root.rglob("*"))] + roots
    files = [path for path in files if path.is_file()]
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as packed:
            for file in files:
                packed.write(file, file.relative_to(base))
        return archive
    with tarfile.open(archive, "w:gz") as packed:
        for file in files:
            packed.add(file, f"./{file.relative_to(base)}")
        junk = tarfile.TarInfo(f"{base.name}/._.DS_Store.JPEG")  # as macOS adds
        junk.size = 4
        packed.addfile(junk, io.BytesIO(b"junk"))
    return archive


def move(source: Path, target: Path) -> Path:
    """Moves a file or folder, creating the folders above."""
    target.parent.mkdir(parents=True, exist_ok=True)
    return Path(shutil.move(source, target))
