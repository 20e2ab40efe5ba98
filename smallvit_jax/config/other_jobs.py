"""Config fields of all jobs other than pre-training and fine-tuning."""

from smallvit_jax.config.field import Group, field
from smallvit_jax.config.rules import (
    COUNTS,
    FRACTION,
    POSITIVE,
    POSITIVE_NUMBERS,
    POSITIVE_RANGE,
    SEEDS,
    at_least,
    is_positive,
    list_of,
    one_of,
    one_of_numbers,
)

RECIPE: Group = {
    "from_scratch": field(False, "also train the same model without pre-training, for comparison"),
}

ADVISE: Group = {
    "minutes": field(30.0, "minutes that the recommended run may take", POSITIVE),
}

COMPILE_CHECK: Group = {
    "targets": field(
        "v5e-8,v6e-8,v5p-8,h100",
        "hardware to compile for: v4, v5e, v5p, v6e or tpu7x, each with the size of the slice; "
        "h100 or h200",
    ),
    "stages": field("both", "what to compile", one_of("both", "pretrain", "finetune")),
}

EVALUATE: Group = {
    "checkpoint": field("", "stage folder or checkpoint to evaluate"),
    "batch_size": field(500, "images per forward pass, over all devices", at_least(1)),
    "knn_neighbors": field(20, "k of the kNN classifier", at_least(1)),
    "knn_temperature": field(0.07, "temperature of the kNN vote", POSITIVE),
    "knn_sweep_neighbors": field((10, 20, 100, 200), "values of k in the kNN sweep", COUNTS),
    "knn_sweep_temperatures": field(
        (0.03, 0.07, 0.2), "temperatures in the kNN sweep", POSITIVE_NUMBERS
    ),
    "probe_blocks": field(
        4, "last blocks whose features the linear probe uses; 0: no linear probe", at_least(0)
    ),
    "probe_epochs": field(100, "epochs of the linear probe", at_least(1)),
    "probe_learning_rates": field(
        (0.001, 0.003, 0.01, 0.03, 0.1),
        "learning rates of the linear probe per 256 images of batch size",
        POSITIVE_NUMBERS,
    ),
    "corruptions": {
        "kinds": field(
            0,
            "kinds of corruption",
            one_of_numbers({0: "none", 15: "the benchmark's", 19: "also its 4 for validation"}),
        ),
        "images": field(0, "test images to corrupt, stratified by class; 0: all", at_least(0)),
        "source": field(
            "auto",
            "corrupted images to use",
            one_of(
                {
                    "official": "the published files",
                    "regenerated": "computed here",
                    "auto": "official if found",
                }
            ),
        ),
        "root": field(
            "", "folder of the published .npy files; empty: look in the TFDS data directory"
        ),
        "cache": field(
            "~/.cache/smallvit_jax/corruptions",
            "cache folder for regenerated images; empty: no cache",
        ),
        "processes": field(
            0, "processes that generate corrupted images; 0: one per core", at_least(0)
        ),
    },
}

ATTENTION: Group = {
    "checkpoint": field("", "stage folder or checkpoint whose attention to draw"),
    "beside": field(
        "", "a second checkpoint to draw next to it, such as the model trained from scratch"
    ),
    "input": field("", "an image file or a folder of images; empty: test images of the dataset"),
    "boxes": field(
        "",
        "file of bounding boxes for the input's files, one per line: file name, then left, top, "
        "right, bottom in pixels; other words between them are ignored",
    ),
    "images": field(8, "how many images to draw", at_least(1)),
    "enlarge": field(
        4, "also draw images enlarged by this factor; 1: only the training size", at_least(1)
    ),
    "block": field(-1, "block whose attention to draw: 0 is the first, -1 the last"),
    "mass": field(0.6, "share of the attention mass that the masked images show", FRACTION),
}

PREDICT: Group = {
    "checkpoint": field("", "stage folder or checkpoint to use (jobs predict and embed)"),
    "input": field("", "an image file or a folder of images, with or without subfolders"),
    "batch_size": field(500, "images per forward pass, over all devices", at_least(1)),
    "top": field(5, "classes to write per image", at_least(1)),
    "format": field("csv", "file format of the predictions", one_of("csv", "json")),
}

CONVERT: Group = {
    "source": field(
        "",
        "a .pth or .safetensors file of the reference to import, or a stage folder to export",
    ),
    "network": field(
        "teacher", "network to take from a pre-training file", one_of("teacher", "student")
    ),
    "format": field(
        "pth",
        "file format of an exported stage folder",
        one_of(
            {
                "pth": "",
                "safetensors": "with a model card",
                "stablehlo": "a whole program, for JAX alone",
            }
        ),
    ),
}

REPORT: Group = {
    "at_end": field(True, "write report.html to the workdir when a training job ends"),
    "runs": field(
        "", "workdirs to compare, separated by commas; empty: report on the workdir itself"
    ),
}

DATA_EFFICIENCY: Group = {
    "fractions": field(
        (0.25, 0.5, 0.75, 1.0),
        "shares of the labels to fine-tune on, each also trained from scratch for comparison",
        list_of(
            "numbers above 0 and at most 1", float, lambda value: is_positive(value) and value <= 1
        ),
    ),
    "seeds": field((0,), "seeds; each pre-trains once and fine-tunes on every fraction", SEEDS),
}

COMPARE: Group = {
    "variants": field(
        "scratch,ssl",
        "variants to train, separated by commas: parts such as ssl, conv or impulse3 joined by + "
        "(listed in docs/comparing.md), or FIELD=VALUE of model, pretrain or finetune",
    ),
    "seeds": field((0, 1, 2), "seeds; every variant is trained with each of them", SEEDS),
    "targets": field(
        (50.0, 70.0, 90.0),
        "accuracies in %; the table shows epochs and time to reach them",
        list_of(
            "accuracies above 0 and at most 100",
            float,
            lambda value: is_positive(value) and value <= 100,
        ),
    ),
}

SWEEP: Group = {
    "variants": field("scratch", "variants to train, as in compare.variants"),
    "settings": field(16, "random settings of AdamW, and as many of SGD, per variant", at_least(1)),
    "adamw_lr": field((1e-4, 1e-2), "range of AdamW's learning rates, log-uniform", POSITIVE_RANGE),
    "adamw_weight_decay": field(
        (1e-3, 1.0), "range of AdamW's weight decay, log-uniform", POSITIVE_RANGE
    ),
    "sgd_lr": field((1e-2, 3.0), "range of SGD's learning rates, log-uniform", POSITIVE_RANGE),
    "sgd_weight_decay": field(
        (1e-6, 1e-3), "range of SGD's weight decay, log-uniform", POSITIVE_RANGE
    ),
}
