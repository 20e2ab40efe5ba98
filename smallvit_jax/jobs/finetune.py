"""Fine-tuning as a job: supervised training from a pre-trained backbone or from scratch."""

import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from jaxtyping import Int
from ml_collections import ConfigDict

from smallvit_jax.augment.finetune import AugmentSettings, augment_batch
from smallvit_jax.augment.mixing import mix_batch
from smallvit_jax.checkpoints.loading import load_backbone
from smallvit_jax.config.jobs import JOBS
from smallvit_jax.config.tree import part_of
from smallvit_jax.data.subsets import spread_out
from smallvit_jax.evaluation.accuracy import classification_figures
from smallvit_jax.evaluation.forward import Forward
from smallvit_jax.evaluation.logistic_probe import fit_classifier
from smallvit_jax.evaluation.verdict import finetuning_advice
from smallvit_jax.models import create_model
from smallvit_jax.models.depth import layer_numbers
from smallvit_jax.models.image_model import ImageModel
from smallvit_jax.models.parameters import Functional, get_arrays, set_arrays
from smallvit_jax.objectives.relative_location import Drloc, grid_side, without_head
from smallvit_jax.objectives.supervised import initial_state, update
from smallvit_jax.plans.data_and_model import Data, DatasetReader, LabeledImages, describe_data
from smallvit_jax.plans.finetuning import make_plan
from smallvit_jax.process import runtime
from smallvit_jax.process.others import from_first_process
from smallvit_jax.process.sharding import make_mesh, replicate
from smallvit_jax.training import stage
from smallvit_jax.training.optimizers import make_optimizer
from smallvit_jax.training.placement import make_source
from smallvit_jax.training.state import Arrays, TrainState
from smallvit_jax.workdir.ownership import finished_result, holds_checkpoint
from smallvit_jax.workdir.records import write_result

PROBE_LABELS = 100  # most labels per class with which "auto" starts from a probe
PROBE_DECAY = 0.65  # `finetune.layer_decay` after a probe, so that most of what was learned stays
STANDARDIZED_IMAGES = 5000  # whose features standardize those of the labeled images


def run(
    config: ConfigDict, workdir: Path, reader: DatasetReader, init_from: Path | None = None
) -> dict[str, Any]:
    """Fine-tunes in `workdir` and returns the contents of its `result.json`.

    `init_from`, the stage that a recipe starts from, overrides `config.finetune.init_from`.
    """
    used = part_of(config, JOBS["finetune"].uses)
    if init_from is not None:
        used["finetune"]["init_from"] = f"../{init_from.name}"  # the recipe's folder may move
    if done := finished_result(workdir, used):
        print(f"fine-tuning is already done: {workdir}")
        return done

    r = config.runtime
    dtype = runtime.prepare(r.precision, r.compilation_cache, r.fused_attention)
    mesh = make_mesh()
    data = reader.load(config)
    start = init_from or config.finetune.init_from
    images, order, options, augment, schedule, settings = make_plan(
        config, data, from_scratch=not start
    )
    classifier = create_model(**options, dtype=dtype, remat=r.remat, seed=config.seed)
    forward = bind_forward(config, Functional(classifier), augment, mesh)
    probed = bool(start) and head_init(config, images.labels) == "probe"
    if start and not holds_checkpoint(workdir):  # else it resumes from its own checkpoint
        print(load_backbone(classifier, start, options))
        if probed:
            set_head(classifier, images, data, forward)
    model, drloc = Functional(classifier), None
    if settings:
        key = runtime.stage_key(config.seed, "drloc")
        side, features = grid_side(options), classifier.num_features
        drloc = Drloc(settings, side, features, dtype=dtype, key=key)
    decay = layer_decay(config, probed=probed) if start else 1.0
    factors = layer_factors(model, decay) if decay != 1 else None
    optimizer = bind_optimizer(config, factors)
    with make_source(*images, order, mesh, r.data_placement, r.steps_per_dispatch) as source:
        outcome = stage.run_stage(
            stage.Stage(
                folder=workdir,
                description="fine-tuning" if start else "training from scratch",
                config=used,
                step_function=make_step(config, model, optimizer, augment, drloc),
                schedule=schedule,
                steps_per_epoch=order.steps_per_epoch,
                batch_size=order.batch_size,
                params_of=model_arrays,
                meta={"model": options, **describe_data(data.info)},
                evaluate=AccuracyEvaluator(config, forward, data, from_start=probed),
                best_split="validation" if len(data.subsets.validation) else None,
            ),
            replicate(
                initial_state(model, optimizer, drloc, averaged=bool(config.finetune.ema_decay)),
                mesh,
            ),
            source,
            runtime.stage_key(config.seed, "finetune"),
            steps_per_dispatch=r.steps_per_dispatch,
            checkpoint_every=r.checkpoint_every,
            profile_steps=r.profile,
        )
    chosen = {"head_init": "probe" if probed else "random", "layer_decay": decay}
    result = _write_result(workdir, config, data, str(start), chosen, outcome)
    for sentence in finetuning_advice(result):
        print(sentence)
    return result


def head_init(config: ConfigDict, labels: Int[np.ndarray, " labeled"]) -> str:
    """How a pre-trained model's classifier starts: `finetune.head_init`, or what "auto" chooses."""
    chosen = config.finetune.head_init
    if chosen != "auto":
        return chosen
    per_class = len(labels) / max(1, len(np.unique(labels)))
    return "probe" if per_class <= PROBE_LABELS else "random"


def set_head(classifier: ImageModel, labeled: LabeledImages, data: Data, forward: Forward) -> None:
    """Sets the classifier, in place, to logistic regression on the model's frozen features.

    Kumar et al., "Fine-Tuning can Distort Pretrained Features and Underperform
    Out-of-Distribution", ICLR 2022. The features of up to `STANDARDIZED_IMAGES` training images,
    which need no labels, standardize those of the labeled ones.
    """
    sample = data.train.images[spread_out(data.subsets.unlabeled, STANDARDIZED_IMAGES)]
    arrays = get_arrays(classifier)
    features, all_features = (
        forward(arrays, images)["features"] for images in (labeled.images, sample)
    )
    kernel, bias = from_first_process(  # as the solver's last bits depend on the machine
        fit_classifier(features, labeled.labels, all_features, data.info.num_classes)
    )
    print(f"the classifier starts from a probe on the features of {len(features):,} labeled images")
    set_arrays(classifier, arrays | {"head.kernel": kernel, "head.bias": bias})


def bind_forward(
    config: ConfigDict, model: Functional, settings: AugmentSettings, mesh: jax.sharding.Mesh
) -> Forward:
    """The model's features and logits for whole splits, on images scaled as in training."""
    return Forward(
        model,
        ("features", "logits"),
        image_size=settings.image_size,
        mean=settings.mean,
        std=settings.std,
        batch_size=config.evaluate.batch_size,
        mesh=mesh,
    )


def layer_decay(config: ConfigDict, *, probed: bool) -> float:
    """The decay of a pre-trained model: `finetune.layer_decay`, or what its classifier needs."""
    if config.finetune.layer_decay is not None:
        return config.finetune.layer_decay
    return PROBE_DECAY if probed else 1.0


def layer_factors(pretrained: Functional, decay: float) -> dict[str, float]:
    """Factors of the learning rate by array.

    They fall by `decay` from the classifier to the first layer, block by block (Clark et al.,
    "ELECTRA", 2020; BEiT, MAE).
    """
    numbers = layer_numbers(pretrained.trainable)
    last = max(numbers.values())
    return {name: decay ** (last - number) for name, number in numbers.items()}


def bind_optimizer(
    config: ConfigDict, rate_factors: dict[str, float] | None = None
) -> optax.GradientTransformationExtraArgs:
    """Builds the optimizer that `config.finetune.optimizer` describes."""
    o = config.finetune.optimizer
    return make_optimizer(
        o.name,
        rate_factors=rate_factors,
        clip=o.clip,
        clip_global=o.clip_global,
        eps=o.eps,
        decay_vectors=o.decay_vectors,
    )


def make_step(
    config: ConfigDict,
    model: Functional,
    optimizer: optax.GradientTransformationExtraArgs,
    augment: AugmentSettings,
    drloc: Drloc | None = None,
) -> stage.StepFunction:
    """Returns the training step to compile: from uint8 images to the next state."""
    a = config.finetune.augment
    from_images = bind_update(config, model, optimizer, drloc)

    def step_function(state, batch, labels, key, schedule):
        augment_key, mix_key, drop_key = jax.random.split(key, 3)
        mixed = mix_batch(
            augment_batch(batch, augment_key, augment),
            labels,
            mix_key,
            a.mix,
            a.mixup_alpha,
            a.cutmix_alpha,
        )
        return from_images(state, *mixed, drop_key, schedule)

    return step_function


def bind_update(
    config: ConfigDict,
    model: Functional,
    optimizer: optax.GradientTransformationExtraArgs,
    drloc: Drloc | None = None,
):
    """Binds the config's settings to `update`, leaving the arguments `state` to `schedule`."""
    return functools.partial(
        update,
        model=model,
        optimizer=optimizer,
        label_smoothing=config.finetune.label_smoothing,
        accumulate=config.runtime.accumulate,
        ema_decay=config.finetune.ema_decay,
        drloc=drloc,
    )


def model_arrays(state: TrainState) -> Arrays:
    """The arrays to evaluate and to save: the moving average, if there is one."""
    return state.average or plain_arrays(state)


def plain_arrays(state: TrainState) -> Arrays:
    """The model's arrays after the last step."""
    return without_head(state.params) | state.buffers


class AccuracyEvaluator:
    """Top-1, top-5 and loss on the test split, and on the validation part if there is one.

    With a moving average, these are the average's; those of the plain weights are beside them, as
    splits "test_plain" and "validation_plain". Measured every `finetune.evaluate_every` epochs and
    after the last one; with `from_start`, also before the first step.
    """

    def __init__(
        self,
        config: ConfigDict,
        forward: Forward,
        data: Data,
        *,
        from_start: bool,
    ):
        self._every, self._epochs = config.finetune.evaluate_every, config.finetune.epochs
        self._from_start = from_start
        self._splits = {"test": data.test}
        if len(data.subsets.validation):
            self._splits["validation"] = data.train.take(data.subsets.validation)
        self._forward = forward

    def __call__(self, epochs_done: int, state: TrainState) -> dict[str, dict[str, float]]:
        if epochs_done == 0 and not self._from_start:
            return {}
        if epochs_done % self._every and epochs_done != self._epochs:
            return {}
        weights = {"": model_arrays(state)}
        if state.average:
            weights["_plain"] = plain_arrays(state)
        return {
            name + suffix: classification_figures(
                self._forward(arrays, split.images)["logits"], split.labels
            )
            for name, split in self._splits.items()
            for suffix, arrays in weights.items()
        }


def _write_result(
    workdir: Path,
    config: ConfigDict,
    data: Data,
    init_from: str,
    chosen: dict[str, Any],
    outcome: stage.Outcome,
) -> dict[str, Any]:
    """Reports the last epoch, and separately the best epoch on the test set, which papers quote."""
    by_split = {
        name: [row for row in outcome.evaluations if row["split"] == name]
        for name in ("test", "test_plain", "validation")
    }
    test, plain, validation = by_split.values()
    best = max(test, key=lambda row: row["top1"])
    probe = test[0] if test[0]["step"] == 0 else None
    result = {
        "job": "finetune",
        "dataset": data.info.name,
        "init_from": init_from,
        "labelled_images": len(data.subsets.labeled),  # spelled as in older results
        "seed": config.seed,
        **chosen,
        "epochs": config.finetune.epochs,
        "steps": outcome.last_metrics["step"],
        "test_images": len(data.test.labels),
        "test_top1": test[-1]["top1"],
        "test_top5": test[-1]["top5"],
        "test_loss": test[-1]["loss"],
        "plain_test_top1": plain[-1]["top1"] if plain else None,
        "probe_test_top1": probe and probe["top1"],
        "best_on_test_top1": best["top1"],
        "best_on_test_epoch": best["epoch"],
    }
    if validation:
        chosen = max(validation, key=lambda row: (row["top1"], row["step"]))
        result |= {
            "validation_top1": validation[-1]["top1"],
            "best_on_validation_epoch": chosen["epoch"],
            "test_top1_at_best_validation": next(
                row["top1"] for row in test if row["step"] == chosen["step"]
            ),
        }
    result |= {
        "seconds": round(outcome.seconds, 1),
        "images_per_second": outcome.images_per_second,
    }
    return write_result(workdir, result)
