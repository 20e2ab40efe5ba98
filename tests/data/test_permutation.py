import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from smallvit_jax.data.permutation import stable_permutation


@given(st.integers(0, 300), st.lists(st.integers(-(2**63), 2**64 - 1), min_size=1, max_size=4))
def test_result_is_a_repeatable_permutation(count, key):
    order = stable_permutation(count, *key)
    assert np.array_equal(np.sort(order), np.arange(count))
    assert np.array_equal(order, stable_permutation(count, *key))


def test_order_matches_the_recorded_one():
    """Interrupted runs depend on every numpy version giving the same order."""
    assert stable_permutation(8, 0, 1).tolist() == [3, 7, 4, 2, 1, 6, 5, 0]
    assert stable_permutation(8, 0, 2).tolist() == [4, 3, 7, 6, 5, 2, 0, 1]


def test_orders_of_neighboring_keys_are_independent():
    """Two independent random orders of n agree in 1 ± 1 places, whatever n."""
    orders = [stable_permutation(5000, seed, epoch) for seed in range(4) for epoch in range(4)]
    agreements = [np.sum(a == b) for i, a in enumerate(orders) for b in orders[:i]]
    assert 0.6 < np.mean(agreements) < 1.4  # 120 pairs: standard error 0.09
