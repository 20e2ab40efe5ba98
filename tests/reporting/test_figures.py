import numpy as np
import pytest

from smallvit_jax.reporting import figures, pictures


def test_long_curves_get_a_smoothed_line_on_top():
    epochs = np.linspace(0, 10, 1000)
    noisy = np.random.default_rng(0).normal(5, 1, 1000)
    short = (np.arange(4.0), np.array([1.0, 4.0, 9.0, 16.0]))
    figure = figures.draw_curves({"loss": {"": (epochs, noisy)}, "top1": {"a": short, "b": short}})
    loss, top1 = figure.axes
    pale, smooth = (line.get_ydata() for line in loss.lines)
    assert np.array_equal(pale, noisy)
    assert smooth.std() < noisy.std() / 2 and smooth.mean() == pytest.approx(5, abs=0.1)
    assert [line.get_ydata().tolist() for line in top1.lines] == [[1, 4, 9, 16]] * 2
    assert [text.get_text() for text in top1.get_legend().texts] == ["a", "b"]


@pytest.mark.parametrize("count", [1, 8, 9, 20])
def test_every_curve_is_drawn_in_its_own_color(count):
    curve = (np.arange(3.0), np.arange(3.0))
    (axes,) = figures.draw_curves({"loss": {f"run {i}": curve for i in range(count)}}).axes
    assert len({str(line.get_color()) for line in axes.lines}) == len(axes.lines) == count


@pytest.mark.parametrize(("classes", "numbered"), [(3, True), (40, False)])
def test_confusion_is_normalized_by_true_class(classes, numbered):
    confusion = np.diag(np.full(classes, 3)) + np.eye(classes, k=1, dtype=int)
    axes = figures.draw_confusion(confusion, [f"class {i}" for i in range(classes)]).axes[0]
    shares = axes.images[0].get_array()
    np.testing.assert_allclose(shares.sum(axis=1), 100)
    assert shares[0, 0] == 75 and shares[0, 1] == 25
    numbers = [text.get_text() for text in axes.texts]
    assert ("75" in numbers) == numbered


def test_only_best_and_worst_of_many_classes_are_named():
    rows = [{"name": f"c{i}", "images": 5, "top1": float(i)} for i in range(60)]
    rows.append({"name": "empty", "images": 0, "top1": None})
    axes = figures.draw_classes(rows).axes[0]
    named = [label.get_text() for label in axes.get_yticklabels()]
    assert named == [f"c{i}" for i in range(10)] + [""] + [f"c{i}" for i in range(50, 60)]


def test_corruptions_have_a_bar_per_severity_beside_the_clean_error():
    errors = {"fog": [10.0, 20.0, 30.0, 40.0, 50.0], "gaussian_noise": [5.0, 6.0, 7.0, 8.0, 9.0]}
    axes = figures.draw_corruptions(errors, clean_error=4.5).axes[0]
    assert [bar.get_height() for bar in axes.patches] == [*errors["fog"], *errors["gaussian_noise"]]
    assert axes.lines[0].get_ydata() == [4.5, 4.5]
    named = [label.get_text() for label in axes.get_xticklabels()]
    assert named == ["fog", "gaussian noise"]


def test_most_confident_mistake_comes_first():
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.45, 0.55], [0.01, 0.99]])
    labels = np.array([0, 0, 0, 0])
    found = pictures.most_confident_mistakes(labels, probabilities)
    assert found.tolist() == [3, 1, 2]
    images = np.zeros((4, 8, 8, 3), np.uint8)
    titles = [
        ax.get_title(loc="left")
        for ax in pictures.draw_mistakes(images, labels, probabilities, ["cat", "dog"]).axes
    ]
    assert titles == [f"cat\nmistaken for dog, {p}%" for p in (99, 80, 55)]
    assert pictures.draw_mistakes(images[:1], labels[:1], probabilities[:1], ["cat", "dog"]) is None
