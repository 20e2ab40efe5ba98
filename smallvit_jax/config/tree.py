"""The one config tree. Files in `configs/` start from it and change what their job needs.

The defaults are the reference recipe (BMVC'22) for CIFAR-10-sized images. The comment behind or
above each field is what `--help` prints, so every field has one. A field whose value is None takes
its value from the dataset table or from the model family at run time, so that overriding the
dataset or the model does not leave stale figures behind.
"""

import ml_collections
from ml_collections.config_dict import placeholder

TRANSFORMERS = ("vit", "swin", "cait")
CONVNETS = ("resnet18", "resnet56", "resnet110", "efficientnet_b0")
MODELS = TRANSFORMERS + CONVNETS
# Lists whose default, None, does not show that their entries are whole numbers.
COUNTS = ("model.stem_channels", "model.stem_strides")


def default_config() -> ml_collections.ConfigDict:
    """Returns a fresh, locked copy of the whole tree."""
    config = ml_collections.ConfigDict()
    # pretrain | finetune | recipe (pretrain, finetune, evaluate) | evaluate | convert | attention |
    # predict | embed | report | data_efficiency | compare | sweep
    config.job = "recipe"
    config.seed = 0  # every random choice is a function of this number and the step
    config.dataset = _dataset()
    config.model = _model()
    config.pretrain = _pretrain()
    config.finetune = _finetune()
    config.recipe = _recipe()
    config.evaluate = _evaluate()
    config.attention = _attention()
    config.predict = _predict()
    config.convert = _convert()
    config.report = _report()
    config.data_efficiency = _data_efficiency()
    config.compare = _compare()
    config.sweep = _sweep()
    config.runtime = _runtime()
    return config.lock()


def leaves(config: ml_collections.ConfigDict, prefix: str = "") -> dict[str, object]:
    """Returns the value of each field that is not a group, by dotted path, sorted."""
    found: dict[str, object] = {}
    for name, value in config.items():
        if isinstance(value, ml_collections.ConfigDict):
            found.update(leaves(value, f"{prefix}{name}."))
        else:
            found[prefix + name] = value
    return found


def _dataset() -> ml_collections.ConfigDict:
    dataset = ml_collections.ConfigDict()
    # a row of the dataset table: cifar10 | cifar100 | svhn | cinic10 | tiny_imagenet | aircraft |
    # cars | digits; or folder: images of your own
    dataset.name = "cifar10"
    dataset.root = ""  # the folder of images, for the dataset "folder"
    # part of a folder's images to test on, stratified by class, where it has no `test/` or `val/`
    dataset.test_fraction = 0.2
    # largest part of a folder's files that may be broken or no image; they are named and left out
    dataset.unreadable_fraction = 0.01
    # part of the training images that is used at all, stratified by class
    dataset.train_fraction = 1.0
    dataset.labels_per_class = 0  # labelled images per class for fine-tuning; 0 uses every label
    # part of the labels that fine-tuning sees, stratified by class; pre-training sees every image
    dataset.label_fraction = 1.0
    # part of the training images set aside to judge the best epoch on
    dataset.validation_fraction = 0.0
    return dataset


def _model() -> ml_collections.ConfigDict:
    model = ml_collections.ConfigDict()
    # architecture family: vit | swin | cait, or a convolutional network: resnet18 | resnet56 |
    # resnet110 | efficientnet_b0
    model.name = "vit"
    model.image_size = placeholder(int)  # pixels per side; None: the dataset's
    # pixels per side; None: the family's for the image size (vit and cait: an eighth of it, swin:
    # a sixteenth; above 96 pixels 16 and 4)
    model.patch_size = placeholder(int)
    # embedding width, of a convolutional network the channels of its first stage; None: the
    # family's (vit, cait 192; swin 96; resnet18 64, resnet56 and resnet110 16, efficientnet_b0 32)
    model.width = placeholder(int)
    # number of blocks, of resnet56 and resnet110 that of layers (6n + 2); None: the family's (vit
    # 9, or 8 with the convolutional stem; cait 24)
    model.depth = placeholder(int)
    # attention heads, of the first stage where there are several; None: the family's (vit 12,
    # swin 3, cait 4)
    model.heads = placeholder(int)
    # hidden width of the MLP over the embedding width; None: the family's (2)
    model.mlp_ratio = placeholder(float)
    # highest drop path rate; None: the family's (.1, rising over the blocks; cait: in all of them;
    # resnets 0, efficientnet_b0 .2)
    model.drop_path = placeholder(float)
    # what a vit's features are: cls (the class token's, the reference's) | mean (over all patches,
    # without a class token)
    model.pool = placeholder(str)
    # a vit's positions: learned (the reference's) | sincos (fixed waves)
    model.pos_embed = placeholder(str)
    # what a cait does with positions of smaller crops: slice (the reference's) | interpolate
    model.position_resize = placeholder(str)
    # whether padding of small grids joins a swin's attention: unmasked (the reference's) | masked
    model.window_padding = placeholder(str)
    # locality self-attention: a learned temperature per head, and no token attends to itself; None:
    # no
    model.lsa = placeholder(bool)
    # how a cait with it keeps patches from attending to themselves: masked (behind the mixing of
    # heads) | released (a score of -1e-9 before it, as the published code)
    model.lsa_mask = placeholder(str)
    # how an image becomes tokens: patchify (the reference's) | conv (a few convolutions) | spt
    # (each patch with what lies half a patch away); how resnet18 and efficientnet_b0 begin: cifar
    # (at full size) | imagenet (at a quarter, a half of it); None: the family's (patchify; cifar up
    # to 96 pixels, imagenet above)
    model.stem = placeholder(str)
    # what normalises behind each convolution of the stem: batch | layer; None: batch
    model.stem_norm = placeholder(str)
    # channels of each 3 x 3 convolution of the stem, from the image on; None: doubling up to the
    # width
    model.stem_channels = placeholder(tuple)
    # strides of them, 1 or 2, whose product is the patch size; None: by the patch size
    model.stem_strides = placeholder(tuple)
    # directions that spt looks in: 4 (diagonal) | 8; None: 4
    model.spt_directions = placeholder(int)
    # where a resnet56's or resnet110's channels double: pad (with zeros; None) | projection
    model.shortcut = placeholder(str)
    # reference (normal, std .02) | fan_in (std 1/sqrt(fan in), for narrow models) | of a vit with
    # pool mean and pos_embed sincos, attention like a convolution's: impulse3 | impulse5 (to one
    # patch of a 3 x 3 or 5 x 5 neighbourhood per head) | mimetic (to similar patches) |
    # mimetic_released (value and projection in its released code's order)
    model.init = "reference"
    return model


def _pretrain() -> ml_collections.ConfigDict:
    pretrain = ml_collections.ConfigDict()
    # stage folder or checkpoint of an earlier pre-training whose student, teacher and centre to
    # start from; empty: from scratch
    pretrain.init_from = ""
    pretrain.epochs = 200  # passes over the images
    pretrain.batch_size = 512  # images per step, over all devices
    pretrain.student_temperature = 0.1  # softmax temperature of the student
    pretrain.freeze_last_layer_epochs = 1  # epochs in which the head's last layer stands still
    pretrain.knn_every = 10  # epochs between kNN evaluations of the teacher's features; 0: never

    pretrain.views = ml_collections.ConfigDict()
    pretrain.views.local_crops = 8  # small views per image, at half the image size
    # area range of global crops, as parts of the image; None: the dataset's
    pretrain.views.global_scale = placeholder(tuple)
    # area range of local crops, as parts of the image; None: the dataset's
    pretrain.views.local_scale = placeholder(tuple)
    pretrain.views.flip = 0.5  # probability of a horizontal flip
    pretrain.views.jitter = 0.8  # probability of colour jitter
    pretrain.views.jitter_strength = (0.4, 0.4, 0.2, 0.1)  # brightness, contrast, saturation, hue
    pretrain.views.grayscale = 0.2  # probability of dropping the colour
    pretrain.views.blur = (1.0, 0.1, 0.5)  # probability of blur: first global, second global, local
    pretrain.views.solarize = 0.2  # probability of solarising the second global view

    pretrain.head = ml_collections.ConfigDict()
    pretrain.head.out_dim = 1024  # number of prototypes
    pretrain.head.hidden_dim = 512  # width of the projection MLP
    pretrain.head.bottleneck_dim = 256  # width before the weight-normalised last layer
    pretrain.head.batch_norm = False  # batch norm in the projection MLP

    pretrain.teacher = ml_collections.ConfigDict()
    pretrain.teacher.momentum = 0.996  # of the moving average at the start; rises to 1 by a cosine
    pretrain.teacher.temperature = 0.07  # softmax temperature after its warm-up
    pretrain.teacher.warmup_temperature = 0.04  # softmax temperature of the first epoch
    pretrain.teacher.warmup_temperature_epochs = 10  # epochs of the linear rise between the two
    pretrain.teacher.center_momentum = 0.9  # of the moving average of teacher outputs
    # drop path in the teacher too: the reference never switches it to evaluation; False mends that
    pretrain.teacher.drop_path = True

    pretrain.optimizer = ml_collections.ConfigDict()
    pretrain.optimizer.name = "adamw"  # adamw | sgd | lars
    pretrain.optimizer.base_lr = 1e-4  # learning rate per 256 images of batch size
    pretrain.optimizer.min_lr = 1e-6  # where the cosine ends
    pretrain.optimizer.warmup_epochs = 30  # linear rise from 0
    # at the start; biases and one-dimensional weights have none
    pretrain.optimizer.weight_decay = 0.04
    pretrain.optimizer.weight_decay_end = 0.4  # at the end, by a cosine
    pretrain.optimizer.clip = 3.0  # largest gradient norm of each single tensor; 0: no clipping
    return pretrain


def _finetune() -> ml_collections.ConfigDict:
    finetune = ml_collections.ConfigDict()
    finetune.init_from = ""  # stage folder or checkpoint to start from; empty: from scratch
    finetune.epochs = 100  # each of `passes_per_epoch` passes
    # the reference's "repeated augmentation" is 3 shuffled passes per epoch
    finetune.passes_per_epoch = 3
    finetune.batch_size = 256  # images per step, over all devices
    # epochs between evaluations on the test images; the last epoch always ends with one
    finetune.evaluate_every = 1
    finetune.label_smoothing = 0.1  # share of the target spread evenly over the classes

    finetune.augment = ml_collections.ConfigDict()
    finetune.augment.flip = 0.5  # probability of a horizontal flip
    # black pixels added on each side before the random crop; 0: no crop; None: the dataset's
    finetune.augment.crop_padding = placeholder(int)
    # AutoAugment's policy for cifar10 | svhn | imagenet | auto: the dataset's of these; or
    # randaugment (two operations at level 9) | none
    finetune.augment.policy = "auto"
    finetune.augment.erase = 0.25  # probability of random erasing
    finetune.augment.erase_area = (0.02, 0.4)  # area range of the erased box
    # height over width of the erased box, drawn uniformly
    finetune.augment.erase_aspect = (0.3, 3.33)
    # reference (the un-normalised mean, put in after normalising) | mean (0 after normalising)
    finetune.augment.erase_fill = "reference"
    # probability that a batch is mixed, by cutmix or mixup in equal parts
    finetune.augment.mix = 0.5
    finetune.augment.mixup_alpha = 1.0  # Beta(alpha, alpha) of mixup; 0: no mixup
    finetune.augment.cutmix_alpha = 1.0  # Beta(alpha, alpha) of cutmix; 0: no cutmix

    # an additional loss: how far apart two tokens of the last grid are (vit, swin, cait)
    finetune.drloc = ml_collections.ConfigDict()
    # of the loss, highest at epoch 20, 0 at the start and the end; 0: off
    finetune.drloc.weight = 0.0
    # l1 (rows and columns as numbers) | ce (as classes) | cbr (regression by classification)
    finetune.drloc.loss = "l1"
    finetune.drloc.pairs = 64  # pairs of tokens per image
    finetune.drloc.absolute = True  # distances; else signed offsets
    # numbers from 0 to 1 instead of in tokens, with l1; the loss is that much smaller
    finetune.drloc.normalize = False

    finetune.optimizer = ml_collections.ConfigDict()
    finetune.optimizer.name = "adamw"  # adamw | sgd | lars
    finetune.optimizer.lr = 1e-3  # highest learning rate
    finetune.optimizer.min_lr = 1e-6  # where the warm-up starts and the cosine ends
    finetune.optimizer.warmup_epochs = 10  # linear rise
    finetune.optimizer.weight_decay = 0.05  # of all parameters unless decay_vectors says otherwise
    # decay biases, norms and other vectors too, as the reference does
    finetune.optimizer.decay_vectors = True
    finetune.optimizer.clip = 0.0  # largest gradient norm of each single tensor; 0: no clipping
    finetune.optimizer.clip_global = 0.0  # largest norm of the whole gradient; 0: no clipping
    finetune.optimizer.eps = 1e-8  # adamw's, added to the root of the mean squared gradient
    return finetune


def _recipe() -> ml_collections.ConfigDict:
    recipe = ml_collections.ConfigDict()
    # also fine-tune the same model without pre-training, for comparison
    recipe.from_scratch = False
    return recipe


def _evaluate() -> ml_collections.ConfigDict:
    evaluate = ml_collections.ConfigDict()
    evaluate.checkpoint = ""  # stage folder or checkpoint to evaluate
    evaluate.batch_size = 500  # images per forward pass, over all devices
    evaluate.knn_neighbors = 20  # k of the kNN classifier
    evaluate.knn_temperature = 0.07  # of the kNN vote
    evaluate.knn_sweep_neighbors = (10, 20, 100, 200)  # every k of the sweep
    evaluate.knn_sweep_temperatures = (0.03, 0.07, 0.2)  # every temperature of the sweep
    # last blocks whose features the linear probe sees, side by side; 0: no linear probe
    evaluate.probe_blocks = 4
    evaluate.probe_epochs = 100  # passes of the linear probe over the training features
    # learning rates of the linear probe per 256 images of batch size
    evaluate.probe_learning_rates = (0.001, 0.003, 0.01, 0.03, 0.1)

    evaluate.corruptions = ml_collections.ConfigDict()
    # how many kinds: 15 (the benchmark's) | 19 (with its four for validation) | 0: none
    evaluate.corruptions.kinds = 0
    evaluate.corruptions.images = 0  # test images to corrupt, stratified by class; 0: all
    # official (the published files) | regenerated | auto: official where found
    evaluate.corruptions.source = "auto"
    evaluate.corruptions.root = ""  # folder of the published .npy files; empty: TFDS's alone
    # folder that keeps regenerated images; empty: none
    evaluate.corruptions.cache = "~/.cache/smallvit_jax/corruptions"
    evaluate.corruptions.processes = 0  # that corrupt images; 0: one per core
    return evaluate


def _attention() -> ml_collections.ConfigDict:
    attention = ml_collections.ConfigDict()
    attention.checkpoint = ""  # stage folder or checkpoint whose attention to draw
    attention.beside = ""  # a second one to draw beside it, such as a model trained from scratch
    # an image file or a folder of them; empty: test images of the dataset
    attention.input = ""
    # file of boxes for the input's files, a line each: name, then left, top, right and bottom in
    # pixels, other words around them (Tiny-ImageNet's val_annotations.txt, CSV files of Cars)
    attention.boxes = ""
    attention.images = 8  # how many images to draw
    attention.enlarge = 4  # draw also at this multiple of the trained image size; 1: not
    attention.block = -1  # whose attention: 0 is the first block, -1 the last
    attention.mass = 0.6  # part of the attention that the masked pictures keep
    return attention


def _predict() -> ml_collections.ConfigDict:
    predict = ml_collections.ConfigDict()  # for the jobs predict and embed
    predict.checkpoint = ""  # stage folder or checkpoint to use
    predict.input = ""  # an image file, or a folder of them, nested or not
    predict.batch_size = 500  # images per forward pass, over all devices
    predict.top = 5  # classes to write per image
    predict.format = "csv"  # of the predictions: csv | json
    return predict


def _convert() -> ml_collections.ConfigDict:
    convert = ml_collections.ConfigDict()
    # .pth or .safetensors file of the reference, or stage folder to make one of
    convert.source = ""
    convert.network = "teacher"  # which of a pre-training file's networks: teacher | student
    convert.format = "pth"  # what a stage folder becomes: pth | safetensors, with a model card
    return convert


def _report() -> ml_collections.ConfigDict:
    report = ml_collections.ConfigDict()
    report.at_end = True  # end jobs that train with a report.html in the workdir
    # workdirs to compare, with commas between; empty: report of the workdir itself
    report.runs = ""
    return report


def _data_efficiency() -> ml_collections.ConfigDict:
    data_efficiency = ml_collections.ConfigDict()
    # parts of the labels to fine-tune with; each is compared with training from scratch
    data_efficiency.fractions = (0.25, 0.5, 0.75, 1.0)
    data_efficiency.seeds = (0,)  # each pre-trains once and fine-tunes at every fraction
    return data_efficiency


def _compare() -> ml_collections.ConfigDict:
    compare = ml_collections.ConfigDict()
    # what to train, with commas between: parts such as ssl, conv or impulse3 with + between (all of
    # them: docs/comparing.md), also FIELD=VALUE of model, pretrain or finetune
    compare.variants = "scratch,ssl"
    compare.seeds = (0, 1, 2)  # each variant is trained with every one
    compare.targets = (50.0, 70.0, 90.0)  # accuracies in % whose epochs and time to tell
    return compare


def _sweep() -> ml_collections.ConfigDict:
    sweep = ml_collections.ConfigDict()
    sweep.variants = "scratch"  # what to train, as in compare.variants
    sweep.settings = 16  # random settings of AdamW, and as many of SGD, for each variant
    sweep.adamw_lr = (1e-4, 1e-2)  # from where to where its learning rates are drawn, log-uniform
    sweep.adamw_weight_decay = (1e-3, 1.0)  # likewise
    sweep.sgd_lr = (1e-2, 3.0)  # likewise, of SGD
    sweep.sgd_weight_decay = (1e-6, 1e-3)  # likewise
    return sweep


def _runtime() -> ml_collections.ConfigDict:
    runtime = ml_collections.ConfigDict()
    runtime.precision = "auto"  # float32 | bfloat16 (compute only) | auto: bfloat16 on GPU and TPU
    runtime.steps_per_dispatch = 8  # training steps per call of the compiled program
    # device | host (with prefetch) | auto: on the device when it fits
    runtime.data_placement = "auto"
    runtime.checkpoint_every = 500  # steps between checkpoints; one is always written at the end
    runtime.compilation_cache = "~/.cache/smallvit_jax"  # folder of compiled programs; empty: none
    # join the other processes of the run: auto (started by Slurm, Open MPI or with JAX_PROCESS_ID)
    # | on (TPU slices and Kubernetes, too) | off
    runtime.distributed = "auto"
    # recompute each block's activations in the backward pass: less memory, a third more work
    runtime.remat = False
    # parts that a step's batch is taken in, one after another: less memory, the same result but
    # for drop path's draws
    runtime.accumulate = 1
    runtime.profile = 0  # training steps to trace into the stage's `profile/` folder; 0: none
    return runtime
