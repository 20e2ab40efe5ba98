"""The tables in docs/coming_from_the_reference.md agree with the config."""

import pathlib
import re

import pytest

from smallvit_jax.config import default_config
from smallvit_jax.config.choices import CONVNETS, TRANSFORMERS
from smallvit_jax.config.tree import DEFAULTS
from smallvit_jax.data.datasets import DATASETS
from smallvit_jax.jobs.variants import PARTS
from smallvit_jax.plans.data_and_model import model_options

TEXT = pathlib.Path(__file__).parents[1] / "docs" / "coming_from_the_reference.md"


def tables() -> list[list[dict[str, str]]]:
    """Each table as a list of rows; a row maps column titles to cells."""
    found, lines = [], []
    for line in [*TEXT.read_text(encoding="utf-8").splitlines(), ""]:
        if line.startswith("|"):
            lines.append([cell.strip() for cell in line.strip("|").split("|")])
        elif lines:
            head, _, *rows = lines
            found.append([dict(zip(head, row, strict=True)) for row in rows])
            lines = []
    return found


def table_with(column: str) -> list[dict[str, str]]:
    (table,) = [rows for rows in tables() if column in rows[0]]
    return table


def numbers(cell: str) -> tuple[float, ...]:
    return tuple(float(part) for part in cell.split(","))


def shows_value(cell: str, value: object) -> bool:
    """Whether a cell shows a field's value."""
    if value is None:
        return cell in ("by model", "by dataset", "by head_init", "finetune.optimizer.lr")
    if isinstance(value, bool):
        return cell == str(value).lower()
    if isinstance(value, str):
        return cell == (value or "empty")
    return numbers(cell) == (value if isinstance(value, tuple) else (value,))


def options(model: str, dataset: str, **fields) -> dict:
    """The model options of a preset."""
    config = default_config()
    config.model.name, config.dataset.name = model, dataset
    config.model.update(fields)
    return model_options(config, DATASETS[dataset])


def test_every_field_is_listed_once_with_its_default():
    values = DEFAULTS
    rows = [row for table in tables() for row in table if "field here" in row]
    named = {}
    for row in rows:
        (field,) = [name for name in re.findall(r"`([\w.]+)`", row["field here"])]
        assert field not in named, field
        named[field] = row["value here"]
    assert set(named) == set(values)
    wrong = {field: cell for field, cell in named.items() if not shows_value(cell, values[field])}
    assert not wrong


def test_per_model_and_per_dataset_fields_are_tabulated():
    rows = [row for table in tables() for row in table if "field here" in row]
    by_model = {
        row["field"].split("`")[1]
        for row in table_with("vit") + table_with("resnet18")
        if "`" in row["field"]
    }
    by_dataset = {title.strip("`") for title in table_with("dataset")[0]}
    for row in rows:
        field = row["field here"].split("`")[1]
        assert (row["value here"] == "by model") == (field in by_model), field
        assert row["value here"] != "by dataset" or field in by_dataset, field


@pytest.mark.parametrize("model", TRANSFORMERS)
def test_transformer_values_match_presets(model):
    resolved = options(model, "cifar10")
    cells = {row["field"].replace("`", ""): row[model] for row in table_with("vit")}
    sides = {32: "cifar10", 64: "tiny_imagenet", 224: "cars"}
    for size, dataset in sides.items():
        (cell,) = [c for title, c in cells.items() if f"patch_size at {size} pixels" in title]
        assert int(cell) == options(model, dataset)["patch_size"]
    for field in ("width", "mlp_ratio"):
        assert float(cells[f"model.{field}"]) == resolved[field]
    for field in ("pool", "pos_embed", "position_resize", "window_padding", "lsa_mask"):
        assert (cells[f"model.{field}"] or None) == resolved.get(field)
    assert cells["model.lsa"] == str(resolved["lsa"]).lower()
    assert numbers(cells["model.drop_path"].split(", ")[0]) == (resolved["drop_path"],)
    depths = resolved.get("depths") or (resolved["depth"],)
    assert numbers(cells["model.depth"]) == depths
    heads = tuple(resolved["heads"] * 2**stage for stage in range(len(depths)))
    assert numbers(cells["model.heads"]) == heads
    assert cells["blocks for the class token"] == str(resolved.get("class_depth", "none"))


def test_comparison_page_lists_every_variant_part():
    lines = (TEXT.parent / "comparing.md").read_text(encoding="utf-8").splitlines()
    for name, part in PARTS.items():
        assert f"| `{name}` | {part.about} |" in lines


@pytest.mark.parametrize("model", CONVNETS)
def test_convnet_values_match_presets(model):
    rows = table_with("resnet18")
    assert list(rows[0]) == ["field", *CONVNETS]
    cells = {row["field"].replace("`", ""): row[model] for row in rows}
    resolved = options(model, "cifar10")
    sizes = {"cifar10": "up to 96", "tiny_imagenet": "up to 96", "cars": "above"}
    for dataset, size in sizes.items():
        (cell,) = [c for title, c in cells.items() if size in title]
        assert (cell or None) == options(model, dataset).get("stem")
    for field in ("width", "depth", "drop_path"):
        cell = cells[f"model.{field}"].split(", ")[0]
        assert (float(cell) if cell else None) == resolved.get(field)
    assert (cells["model.shortcut"] or None) == resolved.get("shortcut")


def test_dataset_values_match_the_dataset_table():
    rows = {row["dataset"]: row for row in table_with("dataset")}
    assert list(rows) == list(DATASETS)
    for name, spec in DATASETS.items():
        row = {title.strip("`"): cell for title, cell in rows[name].items()}
        assert int(row["classes"]) == spec.num_classes
        assert int(row["model.image_size"]) == spec.image_size
        assert numbers(row["mean"]) == spec.mean and numbers(row["std"]) == spec.std
        assert row["finetune.augment.policy"] == spec.policy
        assert numbers(row["pretrain.views.global_scale"]) == spec.global_scale
        assert numbers(row["pretrain.views.local_scale"]) == spec.local_scale
        assert int(row["finetune.augment.crop_padding"]) == spec.crop_padding
