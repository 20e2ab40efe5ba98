import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smallvit_jax.data.batches import BatchOrder
from smallvit_jax.errors import UserError


@st.composite
def orders(draw):
    num_examples = draw(st.integers(1, 60))
    batch_size = draw(st.integers(1, num_examples))
    return BatchOrder(num_examples, batch_size, draw(st.integers(0, 99)), draw(st.integers(1, 4)))


def test_reference_epoch_has_585_steps():
    assert BatchOrder(50_000, 256, seed=0, passes=3).steps_per_epoch == 585
    assert BatchOrder(50_000, 512, seed=0).steps_per_epoch == 97


@given(orders(), st.integers(0, 5))
def test_epoch_is_its_passes_without_the_last_partial_batch(order, epoch):
    first = epoch * order.steps_per_epoch
    used = order.block(first, order.steps_per_epoch).ravel()
    total = order.num_examples * order.passes
    assert total - len(used) == total % order.batch_size < order.batch_size
    for start in range(0, len(used), order.num_examples):
        one_pass = used[start : start + order.num_examples]
        assert len(np.unique(one_pass)) == len(one_pass)
    assert used.dtype == np.int32 and used.min() >= 0 and used.max() < order.num_examples


@given(orders(), st.integers(0, 200), st.integers(1, 20))
def test_block_equals_its_single_steps_across_epochs(order, step, count):
    block = order.block(step, count)
    fresh = BatchOrder(order.num_examples, order.batch_size, order.seed, order.passes)
    assert block.shape == (count, order.batch_size)
    for row in reversed(range(count)):  # in another order, from another object
        assert np.array_equal(block[row], fresh.indices(step + row))


@settings(max_examples=20)
@given(st.integers(0, 1000), st.integers(0, 50))
def test_epochs_passes_and_seeds_have_different_orders(seed, epoch):
    order = BatchOrder(200, 200, seed, passes=2)
    batches = [*order.block(2 * epoch, 4), BatchOrder(200, 200, seed + 1).indices(0)]
    for i, batch in enumerate(batches):
        for other in batches[:i]:
            assert np.mean(batch == other) < 0.1


def test_callers_cannot_change_the_cached_order():
    order = BatchOrder(10, 5, seed=0)
    with pytest.raises(ValueError):
        order.indices(0)[0] = 3


def test_too_large_batch_error_names_field_and_sizes():
    with pytest.raises(UserError, match=r"finetune.batch_size=256 is larger than the 100 training"):
        BatchOrder(100, 256, seed=0, field="finetune.batch_size")
    with pytest.raises(UserError, match=r"batch_size=0"):
        BatchOrder(100, 0, seed=0)
