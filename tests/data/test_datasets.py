import pytest

from smallvit_jax.data.datasets import DATASETS, get_dataset
from smallvit_jax.errors import UserError


@pytest.mark.parametrize("spec", DATASETS.values(), ids=DATASETS)
def test_figures_of_every_row_are_in_range(spec):
    assert DATASETS[spec.name] is get_dataset(spec.name) is spec
    assert spec.num_classes > 1
    assert spec.image_size % 8 == 0
    for low, high in (spec.global_scale, spec.local_scale):
        assert 0 < low < high <= 1
    assert all(0 < value < 1 for value in spec.mean + spec.std)


def test_cifar10_has_the_reference_figures():
    spec = get_dataset("cifar10")
    assert spec.mean == (0.4914, 0.4822, 0.4465)
    assert spec.std == (0.2470, 0.2435, 0.2616)
    assert (spec.global_scale, spec.local_scale) == ((0.7, 1.0), (0.2, 0.5))


def test_unknown_dataset_names_the_closest():
    with pytest.raises(UserError, match=r'dataset.name="cifar-10".*did you mean "cifar10"'):
        get_dataset("cifar-10")
