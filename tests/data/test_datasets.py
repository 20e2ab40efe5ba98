import pytest

from smallvit_jax.data.builders import own_builder
from smallvit_jax.data.datasets import DATASETS, get_dataset
from smallvit_jax.errors import UserError


@pytest.mark.parametrize("spec", DATASETS.values(), ids=DATASETS)
def test_values_of_every_row_are_in_range(spec):
    assert DATASETS[spec.name] is get_dataset(spec.name) is spec
    assert spec.num_classes > 1
    assert spec.image_size % 8 == 0
    assert spec.stored_size >= spec.image_size
    assert spec.policy in ("none", "cifar10", "svhn", "imagenet")
    for low, high in (spec.global_scale, spec.local_scale):
        assert 0 < low < high <= 1
    assert all(0 < value < 1 for value in spec.mean + spec.std)


CIFAR_SCALES, TINY_SCALES = ((0.7, 1.0), (0.2, 0.5)), ((0.5, 1.0), (0.2, 0.4))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.parametrize(
    ("name", "classes", "sizes", "colors", "scales", "policy", "splits"),
    [
        (
            *("cifar10", 10, (32, 32), ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))),
            *(CIFAR_SCALES, "cifar10", ("train", "test")),
        ),
        (
            *("cifar100", 100, (32, 32), ((0.5070, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))),
            *(CIFAR_SCALES, "cifar10", ("train", "test")),
        ),
        (
            *("svhn", 10, (32, 32), ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970))),
            *(CIFAR_SCALES, "svhn", ("train", "test")),
        ),
        (
            *("cinic10", 10, (32, 32)),
            (
                (0.47889522, 0.47227842, 0.43047404),
                (0.24205776, 0.23828046, 0.25874835),
            ),
            *(CIFAR_SCALES, "imagenet", ("train", "test")),
        ),
        (
            *("tiny_imagenet", 200, (64, 64)),
            ((0.4802, 0.4481, 0.3975), (0.2770, 0.2691, 0.2821)),
            *(TINY_SCALES, "imagenet", ("train", "validation")),
        ),
        ("aircraft", 100, (224, 256), IMAGENET, TINY_SCALES, "imagenet", ("trainval", "test")),
        ("cars", 196, (224, 256), IMAGENET, TINY_SCALES, "imagenet", ("train", "test")),
    ],
)
def test_rows_match_the_reference(name, classes, sizes, colors, scales, policy, splits):
    spec = get_dataset(name)
    assert spec.num_classes == classes
    assert (spec.image_size, spec.stored_size) == sizes
    assert (spec.mean, spec.std) == colors
    assert (spec.global_scale, spec.local_scale) == scales
    assert spec.policy == policy
    assert (spec.train_split, spec.test_split) == splits


@pytest.mark.parametrize("name", ["cinic10", "tiny_imagenet", "aircraft", "cars"])
def test_own_builders_agree_with_the_table(name):
    spec = get_dataset(name)
    builder = own_builder(spec.builder)
    assert (builder.name, builder.CLASSES, builder.SIZE) == (
        *(spec.builder, spec.num_classes, spec.stored_size),
    )
    assert {spec.train_split, spec.test_split} <= set(builder.COUNTS)


def test_unknown_dataset_suggests_the_closest():
    with pytest.raises(UserError, match=r'dataset.name="cifar-10".*did you mean "cifar10"'):
        get_dataset("cifar-10")
