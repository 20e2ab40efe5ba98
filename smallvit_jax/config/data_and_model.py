"""Config fields of the dataset and the model. The defaults are the reference's (BMVC'22).

Fields that are None take their values from the dataset table or the model family when the job runs,
so overriding the dataset or the model never leaves stale values.
"""

from smallvit_jax.config import choices
from smallvit_jax.config.field import Group, field, optional
from smallvit_jax.config.rules import (
    BELOW_ONE,
    COUNTS,
    FRACTION,
    POSITIVE,
    PROBABILITY,
    at_least,
    list_of,
    one_of,
    one_of_numbers,
)
from smallvit_jax.data.datasets import DATASETS, FOLDER

DATASET: Group = {
    "name": field(
        "cifar10",
        "dataset, or folder for your own images",
        one_of(*DATASETS, FOLDER),
    ),
    "root": field("", "folder of your own images, for dataset.name=folder"),
    "test_fraction": field(
        0.2,
        "share of a folder's images held out for testing, stratified by class, if it has no test/ "
        "or val/",
        BELOW_ONE,
    ),
    "unreadable_fraction": field(
        0.01,
        "largest share of a folder's files that may be broken or not images; they are listed and "
        "skipped",
        PROBABILITY,
    ),
    "train_fraction": field(1.0, "share of the training images to use, stratified", FRACTION),
    "labels_per_class": field(
        0, "labeled images per class for fine-tuning; 0: all labels", at_least(0)
    ),
    "label_fraction": field(
        1.0,
        "share of the labels that fine-tuning uses, stratified; pre-training sees every image",
        FRACTION,
    ),
    "validation_fraction": field(
        0.0, "share of the training images held out to choose the best epoch", BELOW_ONE
    ),
}

MODEL: Group = {
    "name": field("vit", "model family", one_of(*choices.MODELS)),
    "image_size": optional(int, "pixels per side", "the dataset's", at_least(1)),
    "patch_size": optional(
        int,
        "pixels per side of a patch",
        "image size / 8 (swin: / 16), above 96 pixels 16 (swin: 4)",
        at_least(1),
    ),
    "width": optional(
        int,
        "embedding width, or channels of a convolutional network's first stage",
        "the family's (vit, cait 192; swin 96; resnet18 64; resnet56, resnet110 16; "
        "efficientnet_b0 32)",
        at_least(1),
    ),
    "depth": optional(
        int,
        "number of blocks (vit, cait) or of layers, 6n + 2 (resnet56, resnet110)",
        "the family's (vit 9, with the conv stem 8; cait 24)",
        at_least(1),
    ),
    "heads": optional(
        int,
        "attention heads (swin: in the first stage)",
        "the family's (vit 12, swin 3, cait 4)",
        at_least(1),
    ),
    "mlp_ratio": optional(
        float, "hidden width of the MLP / embedding width", "the family's (2)", POSITIVE
    ),
    "drop_path": optional(
        float,
        "highest drop path rate",
        "the family's (0.1, rising from 0 over the blocks; cait: 0.1 in all blocks; resnets 0; "
        "efficientnet_b0 0.2)",
        BELOW_ONE,
    ),
    "pool": optional(str, "output features of a vit", "cls", one_of(choices.POOLS)),
    "pos_embed": optional(str, "position embedding of a vit", "learned", one_of(choices.POSITIONS)),
    "position_resize": optional(
        str,
        "how a cait fits its position embedding to smaller crops",
        "slice",
        one_of(choices.POSITION_RESIZES),
    ),
    "window_padding": optional(
        str,
        "attention to the padding of small grids in a swin",
        "unmasked",
        one_of(choices.WINDOW_PADDINGS),
    ),
    "lsa": optional(
        bool,
        "locality self-attention: a learned temperature per head, and no token attends to itself",
        "false",
    ),
    "lsa_mask": optional(
        str,
        "how a cait with lsa masks a patch's attention to itself",
        "masked",
        one_of(choices.LSA_MASKS),
    ),
    "stem": optional(
        str,
        "first layers of a transformer, or of resnet18 and efficientnet_b0",
        "patchify, or cifar (above 96 pixels imagenet)",
        one_of(choices.TRANSFORMER_STEMS, choices.CONVNET_STEMS),
    ),
    "stem_norm": optional(
        str, "normalization in the conv stem", "batch", one_of(*choices.STEM_NORMS)
    ),
    "stem_channels": optional(
        tuple,
        "channels of each 3 x 3 convolution of the conv stem",
        "doubling up to the width",
        COUNTS,
    ),
    "stem_strides": optional(
        tuple,
        "strides of these convolutions, 1 or 2; their product is the patch size",
        "from the patch size",
        list_of("ones and twos", int, lambda value: value in (1, 2)),
    ),
    "spt_directions": optional(
        int,
        "directions in which spt shifts the image",
        "4",
        one_of_numbers(choices.SPT_DIRECTIONS),
    ),
    "shortcut": optional(
        str,
        "how a resnet56 or resnet110 doubles its channels",
        "pad",
        one_of(choices.SHORTCUTS),
    ),
    "init": field(
        "reference",
        "initialization; impulse and mimetic need a vit with pool=mean and pos_embed=sincos",
        one_of(choices.INITS),
    ),
}
