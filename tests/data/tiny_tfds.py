"""Writes small TFDS datasets as array_record files, without TFDS builders or TensorFlow."""

import io
import json
from pathlib import Path

import numpy as np

CIFAR10_CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
_FEATURES = "tensorflow_datasets.core.features."


def tiny_images(count: int, size: int = 32, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Random images, with labels that cycle through ten classes."""
    images = np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), np.uint8)
    return images, np.arange(count, dtype=np.int32) % 10


def encode(image: np.ndarray) -> bytes:
    """Encodes an image as PNG, which is lossless."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def write_tfds(
    data_dir: Path,
    splits: dict[str, list[tuple[bytes, int | None]]],
    *,
    builder: str = "cifar10",
    version: str = "3.0.2",
    size: int = 32,
    class_names: tuple[str, ...] = CIFAR10_CLASSES,
    shards: int = 1,
) -> Path:
    """Writes `<data_dir>/<builder>/<version>` from encoded images and labels; returns it.

    `builder` may be "name/config".
    """
    from array_record.python import array_record_module

    dataset, _, config = builder.partition("/")
    folder = Path(data_dir) / builder / version
    folder.mkdir(parents=True)
    split_infos = []
    for split, examples in splits.items():
        parts = [list(part) for part in np.array_split(np.arange(len(examples)), shards)]
        for number, part in enumerate(parts):
            name = f"{dataset}-{split}.array_record-{number:05d}-of-{shards:05d}"
            writer = array_record_module.ArrayRecordWriter(str(folder / name), "group_size:1")
            for index in part:
                writer.write(_example(index, *examples[index]))
            writer.close()
        split_infos.append(
            {
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                "name": split,
                "numBytes": "1",
                "shardLengths": [str(len(part)) for part in parts],
            }
        )
    info = {
        "fileFormat": "array_record",
        "name": dataset,
        "configName": config,
        "splits": split_infos,
        "version": version,
    }
    (folder / "dataset_info.json").write_text(json.dumps(info))
    (folder / "features.json").write_text(json.dumps(_features(size, len(class_names))))
    (folder / "label.labels.txt").write_text("\n".join(class_names) + "\n")
    return folder


def write_tiny_dataset(data_dir: Path, name: str, count: int) -> tuple[str, ...]:
    """Writes a dataset that TFDS provides, with `count` images in each split.

    Returns its class names.
    """
    from smallvit_jax.data.datasets import DATASETS

    row = DATASETS[name]
    class_names = tuple(f"class {number}" for number in range(row.num_classes))
    images, _ = tiny_images(count, row.stored_size)
    labels = np.arange(count) * (row.num_classes // count)  # up to the last classes
    examples = [(encode(image), label) for image, label in zip(images, labels, strict=True)]
    write_tfds(
        data_dir,
        {row.train_split: examples, row.test_split: examples},
        builder=row.builder,
        size=row.stored_size,
        class_names=class_names,
    )
    return class_names


def _example(index: int, image: bytes, label: int | None) -> bytes:
    from tensorflow_datasets.proto import tf_example_pb2

    example = tf_example_pb2.Example()
    feature = example.features.feature
    feature["image"].bytes_list.value.append(image)
    feature["id"].bytes_list.value.append(f"train_{index:05d}".encode())
    if label is not None:
        feature["label"].int64_list.value.append(int(label))
    return example.SerializeToString()


def _features(size: int, num_classes: int) -> dict:
    image = {"dtype": "uint8", "shape": {"dimensions": [str(size), str(size), "3"]}}
    return {
        "pythonClassName": _FEATURES + "features_dict.FeaturesDict",
        "featuresDict": {
            "features": {
                "id": {"pythonClassName": _FEATURES + "text_feature.Text", "text": {}},
                "image": {
                    "pythonClassName": _FEATURES + "image_feature.Image",
                    "image": image,
                },
                "label": {
                    "pythonClassName": _FEATURES + "class_label_feature.ClassLabel",
                    "classLabel": {"numClasses": str(num_classes)},
                },
            }
        },
    }
