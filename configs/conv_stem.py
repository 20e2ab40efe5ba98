"""The models of "Early Convolutions Help Transformers See Better" (2021), trained from scratch.

    python -m smallvit_jax.main --config configs/conv_stem.py:1gf,cars --workdir runs/conv_stem_1gf

The argument is SIZE,DATASET. SIZE is 1gf, 4gf, 18gf or 36gf: the paper's ViT_C at 224 pixels, with
4,567,936, 17,754,136, 81,573,160 and 167,796,008 parameters for 1,000 classes. The suffix
"-patchify" (1gf-patchify) gives the paper's ViT_P for comparison: patches of 16 pixels and one more
block.

From the paper: AdamW with a learning rate of 1e-3 (36gf: 6e-4) at batch size 2,048, weight decay
0.24 (36gf: 0.28) except on biases and norms, 5 epochs of warmup, half a cosine down to 0.5 % over
400 epochs, AutoAugment, mixup 0.8, CutMix 1, label smoothing 0.1, no erasing, no drop path.
Our choices: batch size 256 with an eighth of the paper's learning rate, which scales with the batch
size there (change both together; the decay is multiplied by the rate, so it follows); every batch
is mixed; random crops of padded images; the initialization of the blocks; no weight averaging.

Expected time: not measured.
Expected accuracy: not measured; the paper reports top-1 errors on ImageNet of 24.7, 18.6, 17.0 and
16.8 % (without convolutions 27.7, 19.6, 17.9 and 18.2 %) after 400 epochs.
"""

from smallvit_jax.config import default_config
from smallvit_jax.config.presets import set_dataset
from smallvit_jax.errors import UserError, did_you_mean

SIZES = {
    "1gf": {"width": 192, "heads": 3, "mlp_ratio": 3.0, "depth": 11},
    "4gf": {"width": 384, "heads": 6, "mlp_ratio": 3.0, "depth": 11},
    "18gf": {"width": 768, "heads": 12, "mlp_ratio": 4.0, "depth": 11},
    "36gf": {"width": 1024, "heads": 16, "mlp_ratio": 4.0, "depth": 13},
}
# The two larger models have their own stem; the others use the default one.
DEEP_STEM = {"stem_channels": (64, 128, 128, 256, 256, 512), "stem_strides": (2, 2, 1, 2, 1, 2)}
PATCHIFY = "-patchify"


def get_config(argument: str = "1gf,cars"):
    size, comma, dataset = (part.strip() for part in argument.partition(","))
    name = size.removesuffix(PATCHIFY)
    if name not in SIZES or not comma:
        raise UserError(
            f'the argument after the config file must be SIZE,DATASET like "1gf,cars", with SIZE '
            f'one of {", ".join(SIZES)}, not "{argument}"{did_you_mean(name, SIZES)}'
        )
    config = default_config()
    config.job = "finetune"
    set_dataset(config, dataset)
    config.model.update(image_size=224, patch_size=16, drop_path=0.0, **SIZES[name])
    if size == name:
        config.model.stem = "conv"
        if name in ("18gf", "36gf"):
            config.model.update(DEEP_STEM)
    else:
        config.model.depth += 1

    finetune = config.finetune
    finetune.epochs = 400
    finetune.passes_per_epoch = 1
    finetune.batch_size = 256
    optimizer = finetune.optimizer
    optimizer.lr = (6e-4 if name == "36gf" else 1e-3) * finetune.batch_size / 2048
    optimizer.min_lr = 0.005 * optimizer.lr
    optimizer.warmup_epochs = 5
    optimizer.weight_decay = 0.28 if name == "36gf" else 0.24
    optimizer.decay_vectors = False
    finetune.augment.mix = 1.0
    finetune.augment.mixup_alpha = 0.8
    finetune.augment.erase = 0.0
    return config
