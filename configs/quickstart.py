"""The whole recipe on scikit-learn's bundled digits: no download, no GPU.

    python -m smallvit_jax.main --config configs/quickstart.py --workdir runs/quickstart

1,797 handwritten digits of 8 x 8 pixels, enlarged to 16 x 16. A narrow transformer learns from them
without labels, is then fine-tuned with two labelled images per class, and beside it the same
model is trained on those twenty images from scratch.

Expected time: not measured yet; a few minutes on 2 CPU cores are aimed at.
Expected accuracy: not measured yet.
"""

from smallvit_jax.config import default_config


def get_config():
    config = default_config()
    config.job = "recipe"
    config.dataset.name = "digits"  # comes with scikit-learn
    config.dataset.labels_per_class = 2  # with 10 or more labels, pre-training no longer helps here
    config.recipe.from_scratch = True  # shows what pre-training is worth

    # A model that learns within minutes on a laptop.
    config.model.patch_size = 2  # local crops are 8 pixels wide and need more than a few patches
    config.model.width = 64  # a third of the reference's, a ninth of its parameters per block
    config.model.depth = 4  # the reference has 9 blocks
    config.model.heads = 4  # 16 channels each, as in the reference
    config.model.init = "fan_in"  # the reference's std of .02 collapses at this width

    pretrain = config.pretrain
    pretrain.epochs = 30  # enough for the kNN accuracy to rise clearly
    pretrain.batch_size = 32  # many steps from few images: about 45 an epoch
    pretrain.optimizer.base_lr = 4e-3  # 5e-4 at this batch size; the reference's would be 1e-5
    pretrain.optimizer.warmup_epochs = 3  # a tenth of the epochs; the reference's 30 are all
    pretrain.teacher.warmup_temperature_epochs = 5  # the rise belongs to the first part of the run
    pretrain.head.out_dim = 64  # prototypes for ten kinds of image, not for 50,000 photographs
    pretrain.head.hidden_dim = 128  # twice the width of the model
    pretrain.head.bottleneck_dim = 64  # as wide as the model
    pretrain.views.flip = 0.0  # a mirrored digit is no digit
    pretrain.views.grayscale = 0.0  # the images are gray
    pretrain.views.solarize = 0.0  # would turn strokes into their outlines
    pretrain.views.jitter_strength = (0.4, 0.4, 0.0, 0.0)  # gray has no saturation and no hue

    finetune = config.finetune
    finetune.epochs = 100  # of 3 passes over 20 images: 300 steps
    finetune.batch_size = 20  # all the labelled images; a larger batch would never fill
    finetune.augment.flip = 0.0  # a mirrored digit is no digit
    finetune.augment.crop_padding = 2  # an eighth of the image, as in the reference
    return config
