"""Report sections that need the model and images: views, mistakes, attention, features."""

import jax
import numpy as np

from smallvit_jax.checkpoints.format import read_meta
from smallvit_jax.checkpoints.loading import load_with_meta
from smallvit_jax.checkpoints.lookup import find_step
from smallvit_jax.checkpoints.summary import parameter_table, trainable_shapes
from smallvit_jax.config.choices import CONVNETS
from smallvit_jax.config.jobs import STAGES
from smallvit_jax.data.subsets import stratified_order
from smallvit_jax.evaluation import accuracy
from smallvit_jax.evaluation.attention_maps import attention_maps, draw_attention
from smallvit_jax.evaluation.calibration import calibration
from smallvit_jax.evaluation.forward import available_outputs, bind_model
from smallvit_jax.plans.data_and_model import Data, model_options
from smallvit_jax.plans.finetuning import augment_settings
from smallvit_jax.plans.pretraining import view_settings
from smallvit_jax.reporting import figures, pictures
from smallvit_jax.reporting.page import Block, Folded, Picture
from smallvit_jax.reporting.runs import Predictions, Run
from smallvit_jax.workdir.ownership import CHECKPOINTS

_IMAGES = 5  # rows of views and of augmented images
_ATTENTION_IMAGES = 6
_LARGEST_ENLARGED = 64  # pixels per side; attention of larger images is not drawn at 4x
_MOST_POINTS = 1500  # in the t-SNE plot


def predict(run: Run, data: Data) -> Predictions:
    """Runs the run's final model on the test images."""
    stage = run.classifier or next(iter(run.stages.values()))
    model, meta = load_with_meta(stage.folder)
    batch = run.config.evaluate.batch_size
    found = bind_model(model, meta, *available_outputs(meta), batch_size=batch)(data.test.images)
    logits = found.get("logits")
    probabilities = None if logits is None else np.asarray(jax.nn.softmax(logits, axis=-1))
    return Predictions(data.test.labels, found["features"], probabilities)


_VIEWS_ARE_FOR = {
    "dino": "Pre-training: the teacher sees the global views of an image, the student sees all "
    "views and learns to predict the teacher's output.",
    "lejepa": "Pre-training: the projections of all views of an image are pulled toward the mean "
    "of its global views.",
    "mae": "Pre-training: the model sees some patches of one view and predicts the others.",
}


def views(run: Run, data: Data | None) -> list[Block]:
    """Training images as each stage sees them."""
    if data is None:
        return []
    parts: list[Block] = []
    size = model_options(run.config, data.spec)["image_size"]
    if "pretrain" in run.stages:
        images = _some(data, data.subsets.unlabeled, _IMAGES, run.config.seed)
        views = view_settings(run.config, data, size)
        parts.append(
            Picture(
                "views",
                pictures.draw_views(images, views, run.config.seed),
                _VIEWS_ARE_FOR[run.config.pretrain.objective],
                wide=True,
            )
        )
    if run.classifier is not None:
        images = _some(data, data.subsets.labeled, _IMAGES, run.config.seed)
        settings = augment_settings(run.config, data, size)
        parts.append(
            Picture(
                "augmented",
                pictures.draw_augmented(images, settings, run.config.seed),
                "Fine-tuning: each image and examples of its augmentation; some batches are also "
                "mixed.",
                wide=True,
            )
        )
    return parts


def parameters(run: Run) -> list[Block]:
    """The parameters of each model that the run trained, from its latest checkpoint."""
    blocks: list[Block] = []
    for name, stage in run.stages.items():
        if not (stage.folder / CHECKPOINTS).is_dir():
            continue
        shapes = trainable_shapes(read_meta(find_step(stage.folder, "latest"))["model"])
        count = sum(array.size for array in shapes.values())
        title = f"{STAGES[name].capitalize()}: {count:,} parameters"
        blocks.append(Folded(title, parameter_table(shapes)))
    return blocks


def _some(data: Data, among: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Training images from as many classes as possible."""
    order = stratified_order(data.train.labels[among], seed)
    return data.train.images[among[order[:count]]]


def failures(run: Run, data: Data | None, predictions: Predictions | None) -> list[Block]:
    """Confusions, accuracy by class, calibration and the most confident mistakes."""
    if predictions is None or predictions.probabilities is None:
        return []
    names = _class_names(run, data, predictions)
    confusion = accuracy.confusion_matrix(predictions.probabilities, predictions.labels)
    per_class = accuracy.per_class_accuracy(confusion, names)
    calibrated = calibration(predictions.probabilities, predictions.labels)
    parts: list[Block] = [
        _worst_confusions(confusion, names),
        Picture(
            "confusion",
            figures.draw_confusion(confusion, names),
            "Rows are true classes, in % of their images. Off-diagonal entries are mistakes.",
        ),
        Picture("classes", figures.draw_classes(per_class), "Test accuracy by class."),
        Picture(
            "calibration",
            figures.draw_calibration(calibrated["bins"], calibrated["ece"]),
            "Below the dashed line the model is overconfident, above it underconfident. Larger "
            "dots stand for more images.",
        ),
    ]
    if data is not None:
        mistakes = pictures.draw_mistakes(
            data.test.images, predictions.labels, predictions.probabilities, names
        )
        if mistakes is not None:
            caption = "The most confident mistakes; wrong labels in the dataset show up here, too."
            parts.append(Picture("mistakes", mistakes, caption, wide=True))
    return parts


def _class_names(run: Run, data: Data | None, predictions: Predictions) -> list[str]:
    if data is not None:
        return list(data.info.class_names)
    evaluated = run.stages.get("evaluate")
    if evaluated and "per_class" in evaluated.result:
        return [row["name"] for row in evaluated.result["per_class"]]
    assert predictions.probabilities is not None  # a classifier's, if there is no dataset
    return [str(i) for i in range(predictions.probabilities.shape[1])]


def _worst_confusions(confusion: np.ndarray, names: list[str]) -> str:
    wrong = confusion - np.diag(np.diag(confusion))
    if not wrong.any():
        return "Every test image is classified correctly."
    order = np.argsort(-wrong, axis=None)[:3]
    pairs = [np.unravel_index(i, wrong.shape) for i in order if wrong.flat[i]]
    shown = [f"{names[a]} mistaken for {names[b]} ({wrong[a, b]} times)" for a, b in pairs]
    return f"The most frequent mistakes: {'; '.join(shown)}."


def attention(run: Run, data: Data | None) -> list[Block]:
    """Maps of the fine-tuned model, next to those of the one from scratch if there is one."""
    if data is None or not len(data.test.labels):
        return []
    titles = {"finetune": "pre-trained", "scratch": "from scratch"}
    stages = [name for name in titles if name in run.stages] or list(run.stages)[:1]
    chosen = stratified_order(data.test.labels, run.config.seed)[:_ATTENTION_IMAGES]
    images, maps = data.test.images[chosen], {}
    for name in stages:
        stage = run.stages[name]
        if not (stage.folder / CHECKPOINTS).is_dir():
            return []
        model, meta = load_with_meta(stage.folder)
        size = meta["model"]["image_size"]
        scale = 4 if size <= _LARGEST_ENLARGED else 1
        if meta["model"]["name"] in CONVNETS:
            return ["A convolutional network has no attention to draw."]
        maps[titles.get(name, STAGES[name])] = attention_maps(
            model, meta, images, image_size=size * scale
        )
    caption = (
        "Attention of the last block; bright is high. Small images are enlarged four times. The "
        "masked image keeps the patches with 60 % of the attention."
    )
    return [Picture("attention", draw_attention(images, maps), caption, wide=True)]


def embedding(run: Run, predictions: Predictions | None, data: Data | None) -> list[Block]:
    """Features of test images in two dimensions."""
    if predictions is None or (predictions.labels < 0).all() or len(predictions.labels) < 10:
        return []
    chosen = np.sort(stratified_order(predictions.labels, run.config.seed)[:_MOST_POINTS])
    points = _embed(predictions.features[chosen], run.config.seed)
    names = (
        _class_names(run, data, predictions)
        if predictions.probabilities is not None or data is not None
        else [str(i) for i in range(int(predictions.labels.max()) + 1)]
    )
    caption = (
        "Features of test images in two dimensions, similar ones close together (PCA, then "
        "t-SNE). Colors are the true classes. Distances between clusters are not meaningful."
    )
    figure = figures.draw_embedding(points, predictions.labels[chosen], names)
    return [Picture("embedding", figure, caption)]


def _embed(features: np.ndarray, seed: int) -> np.ndarray:
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    few = min(50, *features.shape)
    reduced = PCA(few, random_state=seed).fit_transform(features)
    perplexity = min(30, (len(features) - 1) / 3)
    return TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(reduced)
