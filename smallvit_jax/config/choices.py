"""The names that a user can choose from, with their meanings.

Used by the config's rules and help, and by the modules that implement the choices. This file must
not import JAX, because `--help` imports it.
"""

TRANSFORMERS = ("vit", "swin", "cait")
CONVNETS = ("resnet18", "resnet56", "resnet110", "efficientnet_b0")
MODELS = TRANSFORMERS + CONVNETS

POOLS = {
    "cls": "the class token, as in the reference",
    "mean": "the mean over all patches, without a class token",
}
POSITIONS = {"learned": "as in the reference", "sincos": "fixed sines and cosines"}
POSITION_RESIZES = {
    "slice": "keep the first ones, as in the reference",
    "interpolate": "resize the grid",
}
WINDOW_PADDINGS = {
    "unmasked": "padding takes part in attention, as in the reference",
    "masked": "padding is masked",
}
LSA_MASKS = {
    "masked": "after the heads are mixed",
    "released": "by a score of -1e-9 before mixing, as in the released code",
}

TRANSFORMER_STEMS = {
    "patchify": "linear patches, as in the reference",
    "conv": "a few convolutions",
    "spt": "shifted patch tokenization",
}
CONVNET_STEMS = {
    "cifar": "full resolution",
    "imagenet": "1/4 resolution, or 1/2 in efficientnet_b0",
}
STEM_NORMS = ("batch", "layer")
SPT_DIRECTIONS = {4: "diagonal", 8: "also left, right, up and down"}
SHORTCUTS = {"pad": "pad with zero channels", "projection": "1 x 1 convolution"}

STRUCTURED_INITS = {
    "impulse3": "attention starts as 3 x 3 shifts",
    "impulse5": "attention starts as 5 x 5 shifts",
    "mimetic": "attention starts near the identity",
    "mimetic_released": "the same with the factor order of the released code",
}
INITS = {
    "reference": "normal, std 0.02",
    "fan_in": "normal, std 1/sqrt(fan in), for narrow models",
} | STRUCTURED_INITS

OBJECTIVES = {
    "dino": "self-distillation, as in the reference",
    "lejepa": "view prediction with projections kept Gaussian; learns more per image in short runs",
    "mae": "masked autoencoding, for a vit; a fraction of the compute per image",
}
HEAD_INITS = {
    "random": "as the model's initialization, as in the reference",
    "probe": "from logistic regression on the pre-trained model's frozen features",
    "auto": "probe with at most 100 labels per class, otherwise random",
}
OPTIMIZERS = ("adamw", "sgd", "lars")
AUGMENT_POLICIES = {
    "cifar10": "AutoAugment",
    "svhn": "AutoAugment",
    "imagenet": "AutoAugment",
    "randaugment": "2 operations at magnitude 9",
    "none": "no policy",
}
ERASE_FILLS = {
    "reference": "the unnormalized mean, inserted after normalization",
    "mean": "0 after normalization",
}
DRLOC_LOSSES = {
    "l1": "row and column as numbers",
    "ce": "as classes",
    "cbr": "regression by classification",
}

PRECISIONS = {
    "float32": "full precision",
    "bfloat16": "for compute; parameters stay float32",
    "auto": "bfloat16 on GPU and TPU",
}
PLACEMENTS = {
    "device": "in device memory",
    "host": "in host memory, with prefetch",
    "auto": "device if they fit",
}
