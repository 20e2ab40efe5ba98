"""A ViT trained from scratch whose attention starts like a convolution (arXiv:2404.01139).

    python -m smallvit_jax.main --config configs/structured_init.py:tiny,cifar10,impulse3 \\
        --workdir runs/impulse3

The argument is SIZE,DATASET,INIT. SIZE is tiny, the paper's ViT-T/2 (width 192, 12 blocks, 3 heads,
5,341,248 parameters without the classifier; 16 x 16 patches for images of up to 96 pixels), or
small, the ViT of the other presets (12 heads, 9 blocks, 8 x 8 patches) without its class token.
INIT is impulse3, impulse5, mimetic, mimetic_released, or reference for the plain initialization.

The recipe is the authors' for small datasets: 200 epochs at batch size 512, AdamW with an epsilon
of 1e-3, RandAugment, no crops, no mixing, no erasing. See docs/structured_init.md.

Expected time: not measured; the initialization takes a few seconds, once.
Expected accuracy: not measured; for tiny,cifar10 the paper reports 91.62 % with impulse3, 91.16 %
with mimetic, and 2 to 4 points less with its plain initializations (single runs).
"""

from smallvit_jax.config import default_config
from smallvit_jax.config.choices import STRUCTURED_INITS
from smallvit_jax.config.presets import set_dataset
from smallvit_jax.data.datasets import DATASETS
from smallvit_jax.errors import UserError, did_you_mean

SIZES = {"tiny": {"depth": 12, "heads": 3, "mlp_ratio": 4.0}, "small": {}}
INITS = (*STRUCTURED_INITS, "reference")


def get_config(argument: str = "tiny,cifar10,impulse3"):
    size, *dataset, init = (part.strip() for part in argument.split(","))
    if not dataset:
        raise UserError(
            "the argument after the config file must be SIZE,DATASET,INIT like "
            f'"tiny,cifar10,impulse3", not "{argument}"'
        )
    for kind, name, known in (("SIZE", size, SIZES), ("INIT", init, INITS)):
        if name not in known:
            raise UserError(
                f'the argument "{argument}" has the unknown {kind} "{name}"'
                f"{did_you_mean(name, known)}; known: {', '.join(known)}"
            )
    config = default_config()
    config.job = "finetune"
    set_dataset(config, ",".join(dataset))
    config.model.update(pool="mean", pos_embed="sincos", init=init, drop_path=0.0, **SIZES[size])
    spec = DATASETS.get(config.dataset.name)
    if size == "tiny" and spec is not None and spec.image_size <= 96:
        config.model.patch_size = spec.image_size // 16

    finetune = config.finetune
    finetune.epochs = 200
    finetune.passes_per_epoch = 1
    finetune.batch_size = 512
    finetune.augment.policy = "randaugment"
    finetune.augment.crop_padding = 0
    finetune.augment.erase = 0.0
    finetune.augment.mix = 0.0
    finetune.optimizer.lr = 1e-3
    finetune.optimizer.warmup_epochs = 10
    finetune.optimizer.weight_decay = 0.01
    finetune.optimizer.decay_vectors = False
    finetune.optimizer.eps = 1e-3
    finetune.optimizer.clip_global = 3.0
    return config
