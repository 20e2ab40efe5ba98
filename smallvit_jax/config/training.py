"""Config fields of pre-training, fine-tuning and the runtime. The defaults are the reference's
(BMVC'22) for images of CIFAR-10's size.
"""

from smallvit_jax.config import choices
from smallvit_jax.config.field import Group, field, optional
from smallvit_jax.config.rules import (
    AREA_RANGE,
    BELOW_ONE,
    BETWEEN,
    FRACTION,
    JITTER,
    NOT_NEGATIVE,
    POSITIVE,
    POSITIVE_RANGE,
    PROBABILITIES,
    PROBABILITY,
    at_least,
    one_of,
)

PRETRAIN: Group = {
    "objective": field("dino", "what to learn from", one_of(choices.OBJECTIVES)),
    "init_from": field(
        "",
        "stage folder or checkpoint of an earlier pre-training with the same objective, to start "
        "from its networks; empty: from scratch",
    ),
    "epochs": field(200, "passes over the images", at_least(1)),
    "batch_size": field(512, "images per step, over all devices", at_least(1)),
    "student_temperature": field(0.1, "dino: softmax temperature of the student", POSITIVE),
    "freeze_last_layer_epochs": field(
        1, "dino: initial epochs in which the head's last layer is frozen", at_least(0)
    ),
    "knn_every": field(10, "epochs between evaluations of the features; 0: never", at_least(0)),
    "views": {
        "local_crops": field(8, "small views per image, at half the image size", at_least(0)),
        "global_scale": optional(
            tuple,
            "area range of global crops (1: the whole image)",
            "the dataset's",
            AREA_RANGE,
        ),
        "local_scale": optional(
            tuple,
            "area range of local crops (1: the whole image)",
            "the dataset's",
            AREA_RANGE,
        ),
        "flip": field(0.5, "probability of a horizontal flip", PROBABILITY),
        "jitter": field(0.8, "probability of color jitter", PROBABILITY),
        "jitter_strength": field(
            (0.4, 0.4, 0.2, 0.1), "brightness, contrast, saturation, hue", JITTER
        ),
        "grayscale": field(0.2, "probability of grayscale", PROBABILITY),
        "blur": field(
            (1.0, 0.1, 0.5),
            "probability of blur: first global view, second global view, local views",
            PROBABILITIES,
        ),
        "solarize": field(0.2, "probability of solarizing the second global view", PROBABILITY),
    },
    "head": {
        "out_dim": field(1024, "dino: number of prototypes", at_least(2)),
        "hidden_dim": field(512, "dino: width of the projection MLP", at_least(1)),
        "bottleneck_dim": field(
            256, "dino: width before the weight-normalized last layer", at_least(1)
        ),
        "batch_norm": field(False, "dino: batch norm in the projection MLP"),
    },
    "lejepa": {
        "weight": field(
            0.05, "weight of the statistic against that of the prediction, 1 - weight", PROBABILITY
        ),
        "out_dim": field(64, "dimensions of the projections", at_least(1)),
        "hidden_dim": field(256, "width of the projection MLP", at_least(1)),
        "directions": field(
            256, "random directions of the statistic, redrawn in each step", at_least(1)
        ),
        "knots": field(17, "points at which it compares characteristic functions", at_least(2)),
    },
    "mae": {
        "mask_ratio": field(0.75, "share of the patches that the model does not see", BETWEEN),
        "visible_weight": field(
            0.1, "weight of the loss on visible patches; masked ones have 1", NOT_NEGATIVE
        ),
        "decoder_width": field(64, "embedding width of the decoder", at_least(1)),
        "decoder_depth": field(2, "blocks of the decoder", at_least(1)),
        "decoder_heads": field(4, "attention heads of the decoder", at_least(1)),
    },
    "teacher": {
        "momentum": field(
            0.996,
            "initial momentum of the moving average, with a cosine schedule to 1",
            PROBABILITY,
        ),
        "temperature": field(0.07, "softmax temperature after warmup", POSITIVE),
        "warmup_temperature": field(0.04, "softmax temperature in the first epoch", POSITIVE),
        "warmup_temperature_epochs": field(
            10, "epochs of linear warmup between the two temperatures", at_least(0)
        ),
        "center_momentum": field(
            0.9, "momentum of the moving average of teacher outputs", PROBABILITY
        ),
        "drop_path": field(
            True,
            "drop path in the teacher too, as in the reference, which never puts it in evaluation "
            "mode",
        ),
    },
    "optimizer": {
        "name": field("adamw", "optimizer", one_of(*choices.OPTIMIZERS)),
        "base_lr": field(1e-4, "learning rate per 256 images of batch size", POSITIVE),
        "min_lr": field(1e-6, "learning rate at the end of the cosine schedule", NOT_NEGATIVE),
        "warmup_epochs": field(30, "epochs of linear warmup from 0", at_least(0)),
        "weight_decay": field(
            0.04, "weight decay at the start; not for biases and other vectors", NOT_NEGATIVE
        ),
        "weight_decay_end": field(
            0.4, "weight decay at the end of its cosine schedule", NOT_NEGATIVE
        ),
        "clip": field(
            3.0, "largest gradient norm of each single tensor; 0: no clipping", NOT_NEGATIVE
        ),
        "clip_global": field(
            0.0, "largest norm of the whole gradient; 0: no clipping", NOT_NEGATIVE
        ),
    },
}

FINETUNE: Group = {
    "init_from": field("", "stage folder or checkpoint to start from; empty: from scratch"),
    "epochs": field(100, "epochs, each of `passes_per_epoch` passes", at_least(1)),
    "passes_per_epoch": field(
        3,
        "shuffled passes over the labeled images per epoch (3: the reference's repeated "
        "augmentation)",
        at_least(1),
    ),
    "min_steps_per_epoch": field(
        0, "more passes per epoch, if that many steps need them: for few labels", at_least(0)
    ),
    "batch_size": field(256, "images per step, over all devices", at_least(1)),
    "evaluate_every": field(
        1,
        "epochs between evaluations on the test images; the last epoch is always evaluated",
        at_least(1),
    ),
    "head_init": field(
        "random", "how the classifier of a pre-trained model starts", one_of(choices.HEAD_INITS)
    ),
    "layer_decay": optional(
        float,
        "factor of a pre-trained model's learning rate from one block to the block before it; the "
        "classifier has the full rate",
        "0.65 if the classifier starts from a probe, otherwise 1",
        FRACTION,
    ),
    "ema_decay": field(
        0.0,
        "decay per step of an exponential moving average of the weights, which is then the model; "
        "the plain weights are evaluated beside it; 0: none",
        BELOW_ONE,
    ),
    "label_smoothing": field(
        0.1, "share of the target that is spread evenly over the classes", BELOW_ONE
    ),
    "augment": {
        "flip": field(0.5, "probability of a horizontal flip", PROBABILITY),
        "crop_padding": optional(
            int,
            "black pixels added on each side before the random crop; 0: no crop",
            "the dataset's",
            at_least(0),
        ),
        "policy": field(
            "auto",
            "augmentation policy",
            one_of({"auto": "the dataset's"}, choices.AUGMENT_POLICIES),
        ),
        "erase": field(0.25, "probability of random erasing", PROBABILITY),
        "erase_area": field((0.02, 0.4), "area range of the erased box", AREA_RANGE),
        "erase_aspect": field(
            (0.3, 3.33), "range of height / width of the erased box, uniform", POSITIVE_RANGE
        ),
        "erase_fill": field("reference", "fill of erased boxes", one_of(choices.ERASE_FILLS)),
        "mix": field(
            0.5, "probability of mixing a batch, by CutMix or mixup equally often", PROBABILITY
        ),
        "mixup_alpha": field(1.0, "mixup draws from Beta(alpha, alpha); 0: no mixup", NOT_NEGATIVE),
        "cutmix_alpha": field(
            1.0, "CutMix draws from Beta(alpha, alpha); 0: no CutMix", NOT_NEGATIVE
        ),
    },
    "drloc": {
        "weight": field(
            0.0,
            "peak weight of the relative-location loss; it rises linearly from 0 until epoch 20, "
            "then falls back to 0; 0: off",
            NOT_NEGATIVE,
        ),
        "loss": field("l1", "loss of the offsets", one_of(choices.DRLOC_LOSSES)),
        "pairs": field(64, "pairs of tokens per image", at_least(1)),
        "absolute": field(True, "predict distances; false: signed offsets"),
        "normalize": field(
            False, "l1: divide offsets by the largest possible one, which makes the loss smaller"
        ),
    },
    "optimizer": {
        "name": field("adamw", "optimizer", one_of(*choices.OPTIMIZERS)),
        "lr": field(1e-3, "peak learning rate", POSITIVE),
        "scratch_lr": optional(
            float, "peak learning rate of training from scratch", "lr", POSITIVE
        ),
        "min_lr": field(
            1e-6, "learning rate at the start of warmup and the end of the cosine", NOT_NEGATIVE
        ),
        "warmup_epochs": field(10, "epochs of linear warmup", at_least(0)),
        "weight_decay": field(0.05, "weight decay; see decay_vectors", NOT_NEGATIVE),
        "decay_vectors": field(
            True, "apply weight decay to biases, norms and other vectors too, as in the reference"
        ),
        "clip": field(
            0.0, "largest gradient norm of each single tensor; 0: no clipping", NOT_NEGATIVE
        ),
        "clip_global": field(
            0.0, "largest norm of the whole gradient; 0: no clipping", NOT_NEGATIVE
        ),
        "eps": field(
            1e-8, "adamw's epsilon, added to the root of the mean squared gradient", POSITIVE
        ),
    },
}

RUNTIME: Group = {
    "precision": field("auto", "compute precision", one_of(choices.PRECISIONS)),
    "steps_per_dispatch": field(8, "training steps per call of the compiled program", at_least(1)),
    "data_placement": field("auto", "where training images are kept", one_of(choices.PLACEMENTS)),
    "checkpoint_every": field(
        500, "steps between checkpoints; the last step always has one", at_least(1)
    ),
    "upload_every": field(
        60.0, "seconds between uploads to a --workdir such as gs://bucket/run", POSITIVE
    ),
    "compilation_cache": field(
        "~/.cache/smallvit_jax", "cache folder for compiled programs; empty: no cache"
    ),
    "distributed": field(
        "auto",
        "whether to join the other processes of a run",
        one_of(
            {
                "auto": "if started by Slurm, Open MPI or with JAX_PROCESS_ID",
                "on": "also on TPU slices and Kubernetes",
                "off": "",
            }
        ),
    ),
    "fused_attention": field(
        True, "on a GPU, in bfloat16, compute attention in one kernel; false: as plain products"
    ),
    "remat": field(
        False, "recompute activations in the backward pass: less memory, a third more compute"
    ),
    "accumulate": field(
        1,
        "gradient accumulation: parts per batch; saves memory, same result except for drop path's "
        "random draws",
        at_least(1),
    ),
    "profile": field(0, "training steps to trace into the stage's profile/; 0: none", at_least(0)),
}
