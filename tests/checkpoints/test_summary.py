"""The table of a model's parameters."""

import numpy as np

from smallvit_jax.checkpoints.summary import parameter_table, trainable_shapes
from smallvit_jax.models import create_model, resolve_options
from smallvit_jax.models.parameters import get_arrays


def test_equal_blocks_share_a_row_but_all_count_in_the_total():
    arrays = get_arrays(create_model("vit", num_classes=10))
    lines = parameter_table(arrays).splitlines()
    (row,) = [line for line in lines if "mlp.fc1.bias" in line]
    assert row.split() == ["|", "blocks.*.mlp.fc1.bias", "|", "(9,", "384)", "|", "float32", "|",
                           "3,456", "|"]  # fmt: skip
    assert lines[-1].startswith(f"Total: {sum(a.size for a in arrays.values()):,} ")


def test_blocks_of_different_shapes_have_their_own_rows():
    arrays = {f"blocks.{i}.kernel": np.zeros((i + 1, 2)) for i in range(3)}
    arrays |= {"layers.0.blocks.0.bias": np.zeros(4), "layers.0.blocks.1.bias": np.zeros(4)}
    table = parameter_table(arrays)
    assert all(f"| blocks.{i}.kernel " in table for i in range(3))
    assert "| layers.0.blocks.*.bias | (2, 4)" in table


def test_long_table_is_truncated_but_its_total_is_complete():
    arrays = {f"weight_{i}": np.zeros(2) for i in range(50)}
    table = parameter_table(arrays, most_lines=10)
    assert len(table.splitlines()) < 15 and "Total: 100 " in table


def test_batch_statistics_are_not_parameters():
    shapes = trainable_shapes(resolve_options("resnet18", num_classes=10))
    assert parameter_table(shapes).splitlines()[-1].startswith("Total: 11,173,962 ")
    assert not any(name.endswith((".mean", ".var")) for name in shapes)
