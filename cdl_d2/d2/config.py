"""The configuration keys of this project, one sentence each."""

from typing import Any

from detectron2.config import CfgNode as CN
from detectron2.projects.deeplab import add_deeplab_config

from cdl_d2.errors import CdlError
from cdl_d2.nn.bridge.bridge_fit import FIT_IMAGES
from cdl_d2.nn.bridge.linear_bridge import DECODER_STRIDE

LATENT_SOURCES = ("model", "mapper", "store")
AUGMENTATIONS = ("exact", "latent", "none")
PROJECT_ADVICE = (
    "those of your own project need DETECTRON2_ENV_MODULE, see docs/tutorials/detectron2.md"
)
INITIALIZATION_KEYS = (  # where a new network begins
    *("MODEL.CLASSIFIER.INIT", "MODEL.TIMM.INIT"),
    *("MODEL.LATENT_RESNET.INIT", "MODEL.LATENT_RESNET.STATISTICS"),
)


def add_cdl_config(cfg: CN) -> None:
    """Add the keys for codecs, networks on latents and transfer to a Detectron2 config."""
    _C = cfg

    # Model input: "image", the original image (no codec is built), as Detectron2's own models read;
    # "latent", the codec's quantized latent; "reconstruction", the decoded image.
    _C.INPUT.DOMAIN = "image"
    # Who encodes: "model" (on its own device, works with any mapper), "mapper" (in the loader's
    # workers, on the CPU) or "store" (nobody: latents are read from a latent store).
    _C.INPUT.LATENT_SOURCE = "model"
    # Folders of the latent stores of the training and test data, by `cdl data encode`.
    _C.INPUT.LATENT_STORE_TRAIN = ""
    _C.INPUT.LATENT_STORE_TEST = ""

    # Pixels a side of the square images of a classifier; 0 for images as they are, of any size
    # where AUGMENTATION is "latent", otherwise of one.
    _C.INPUT.IMAGE_SIZE = 256
    # How a classifier's training data is augmented: "exact", random crops and flips of the image,
    # which is then encoded; "latent", crops and flips of the latent, which is approximate; "none".
    _C.INPUT.AUGMENTATION = "exact"
    # Cells a side to which latents are resized for "latent", and of the crop taken from them.
    _C.INPUT.LATENT_RESIZE = 32
    _C.INPUT.LATENT_CROP = 28

    _C.MODEL.CODEC = CN()
    # As CompressAI names it, or "tiny-bmshj2018-hyperprior", whose weights come with the package.
    _C.MODEL.CODEC.NAME = "bmshj2018-hyperprior"
    # 1 (smallest files) to 8; 1 to 6 for cheng2020; 0 to 2 for the tiny codec. Of a variable-rate
    # codec ("mbt2018-mean-vbr" and others), the rate at which it codes.
    _C.MODEL.CODEC.QUALITY = 4
    # All qualities that the model reads, of which QUALITY is one. In training one is drawn for each
    # image; in evaluation images are encoded at QUALITY. Empty for QUALITY alone.
    _C.MODEL.CODEC.QUALITIES = []
    # The distortion that the codec was trained for, "mse" or "ms-ssim".
    _C.MODEL.CODEC.METRIC = "mse"
    # A local file with the codec's weights, in whose path "{quality}" stands for the quality; empty
    # for CompressAI's zoo or the package's own; "untrained" for random ones, to count and time.
    _C.MODEL.CODEC.WEIGHTS = ""
    # "dequantized", Q(y - mu) + mu, which a receiver of the bitstream has, or "rounded", round(y).
    _C.MODEL.CODEC.QUANTIZATION = "dequantized"

    _C.MODEL.LATENT_RESNET = CN()
    # "residual", three basic blocks as wide as the latent; "conv1x1", one convolution; or "none".
    _C.MODEL.LATENT_RESNET.STEM = "residual"
    # Bottlenecks of conv4 before C4-1, C4-2 and C4.
    _C.MODEL.LATENT_RESNET.CONV4_BLOCKS = [3, 4, 6]
    # Bottlenecks of conv5.
    _C.MODEL.LATENT_RESNET.CONV5_BLOCKS = 3
    # Scales the channels of conv4 (1024) and conv5 (2048).
    _C.MODEL.LATENT_RESNET.WIDTH = 1.0
    # "BN", "GN" (for small batches), "FrozenBN" (only with INIT or a checkpoint) or "SyncBN".
    _C.MODEL.LATENT_RESNET.NORM = "BN"
    # Start of the trunk: a latent classifier's checkpoint or a torchvision ResNet-50's weights.
    _C.MODEL.LATENT_RESNET.INIT = ""
    # Per-channel mean and deviation of the latents, by `cdl latents statistics`; empty for none.
    _C.MODEL.LATENT_RESNET.STATISTICS = ""

    # Names of the classes; a training fills in those of its data set.
    _C.MODEL.CLASS_NAMES = []

    _C.MODEL.CLASSIFIER = CN()
    # For latents "latent_resnet" (MODEL.LATENT_RESNET), "cresnet39" or "cresnet51"; or a pixel
    # network, which reads latents through a bridge to its first convolution: a ResNet of
    # torchvision, such as "resnet50", or any of timm, such as "timm/tf_efficientnet_lite0".
    _C.MODEL.CLASSIFIER.NETWORK = "latent_resnet"
    _C.MODEL.CLASSIFIER.NUM_CLASSES = 1000
    # Scales the channels of a pixel resnet50, for small experiments.
    _C.MODEL.CLASSIFIER.WIDTH = 1.0
    # Whether cresnet39 reads the scales of the entropy model beside the latent, and whether these
    # enter as log(1 + scales) or as they are.
    _C.MODEL.CLASSIFIER.SCALES = True
    _C.MODEL.CLASSIFIER.LOG_SCALES = True
    # Start of a pixel network or of a cResNet's stages: a file of torchvision's or timm's weights,
    # or "imagenet" for their zoos.
    _C.MODEL.CLASSIFIER.INIT = ""

    _C.MODEL.BRIDGE = CN()
    # The pixel backbone that "build_bridged_backbone" makes read latents: any registered one.
    _C.MODEL.BRIDGE.BACKBONE = "build_resnet_fpn_backbone"
    # What a latent takes the place of: "conv1", the output of the first convolution, or in a ResNet
    # the output of the "stem", of "res2" (stride 4) or of "res3" (stride 8). What comes behind it
    # keeps its names, and starts from MODEL.WEIGHTS.
    _C.MODEL.BRIDGE.ENTRY = "conv1"
    # For "conv1": the stride in pixels at which the first layers of the codec's decoder end and the
    # linear map begins: 8, 4, or 16 for none of them; not below the convolution's own.
    _C.MODEL.BRIDGE.STRIDE = DECODER_STRIDE
    # Images of the training data that the map is fitted to, before training.
    _C.MODEL.BRIDGE.FIT_IMAGES = FIT_IMAGES
    # For the other entries: "decoder", the first layers of the codec's own decoder and a
    # projection, or a transform module of stride 4, "deconv" or "res".
    _C.MODEL.BRIDGE.KIND = "decoder"
    # Whether the layers of the decoder stay as they are.
    _C.MODEL.BRIDGE.FROZEN = False
    # Channels between the two halves of a linear map (its rank) or of a transform module; 0 for as
    # many as it reads.
    _C.MODEL.BRIDGE.WIDTH = 0

    _C.MODEL.TIMM = CN()
    # For "build_timm_backbone": any network of timm with stages, whose features are called as those
    # of a ResNet; PIXEL_MEAN and PIXEL_STD must be those that it was trained for.
    _C.MODEL.TIMM.NAME = "tf_efficientnet_lite0"
    # Where it starts: a file of its weights, or "imagenet" for timm's zoo; empty for random ones.
    _C.MODEL.TIMM.INIT = ""
    _C.MODEL.TIMM.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    # Stride of the last feature in pixels: 32, or 16 or 8 where the network can be dilated.
    _C.MODEL.TIMM.OUTPUT_STRIDE = 32
    # What becomes of its batch normalization: "BN", or "FrozenBN" (for small batches).
    _C.MODEL.TIMM.NORM = "FrozenBN"

    _C.MODEL.SELECTION = CN()
    # Which channels of a latent a model sees: "none" for all, "gate", chosen for each image by a
    # learned gate, or "fixed", those of CHANNELS.
    _C.MODEL.SELECTION.KIND = "none"
    # For "fixed": numbers of the channels, such as `cdl latents select` prints; or the file that
    # `cdl latents select --output` writes, and how many of its channels, the most wanted ones. A
    # training keeps their numbers.
    _C.MODEL.SELECTION.CHANNELS = []
    _C.MODEL.SELECTION.FILE = ""
    _C.MODEL.SELECTION.COUNT = 0
    # Weight of the selected channels' bits per pixel in the loss of a "gate"; 0 for formula (3).
    _C.MODEL.SELECTION.RATE_WEIGHT = 0.1
    # Temperature of the gate at the first and at the last iteration; exponential in between.
    _C.MODEL.SELECTION.TEMPERATURES = (5.0, 0.5)
    # The gate's learning rate, against SOLVER.BASE_LR.
    _C.MODEL.SELECTION.LR_FACTOR = 10.0
    # Logit with which a gate keeps each channel at the start, and minus the one with which it drops
    # it: 1 keeps 88 % of them, 0 half.
    _C.MODEL.SELECTION.BIAS = 1.0

    _C.MODEL.TEACHER = CN()
    # The teacher's own YAML, or a detector's LazyConfig (.py), which is run: of this package or of
    # Detectron2's model zoo, or one that you name on the command line and not in a file. A path,
    # from the folder of this config's file or the working folder, or a name relative to the configs
    # of this package or of Detectron2's model zoo.
    _C.MODEL.TEACHER.CONFIG_FILE = ""
    # The teacher's weights; empty for the trained ones of its config: model_final.pth beside it or
    # in its OUTPUT_DIR, those of Detectron2's zoo, or else its MODEL.WEIGHTS. For a classifier
    # without a YAML: a file of torchvision's ResNet-50, or "imagenet" for its zoo.
    _C.MODEL.TEACHER.WEIGHTS = ""

    _C.MODEL.JOINT = CN()
    # For JointClassifier and JointMultitask: what learns, of "encoder", "hyperprior", "decoder" and
    # "task".
    _C.MODEL.JOINT.TRAIN = ("encoder", "hyperprior", "decoder", "task")
    # How gradients pass the quantizer: "noise" or "straight-through".
    _C.MODEL.JOINT.QUANTIZATION = "straight-through"
    # "joint", everything in every step, or "alternate", codec and task network in turn.
    _C.MODEL.JOINT.STEPS = "joint"
    # The iteration from which on tasks learn; the codec alone does before.
    _C.MODEL.JOINT.TASKS_FROM = 0
    # Weight of a classifier's loss; those of several tasks are in MODEL.TASKS.
    _C.MODEL.JOINT.TASK_WEIGHT = 1.0
    # Weight of bits per pixel.
    _C.MODEL.JOINT.RATE_WEIGHT = 1.0
    # Bits per pixel that the rate is steered to: while it is below, RATE_WEIGHT_BELOW is its weight
    # instead of RATE_WEIGHT; 0 for no target.
    _C.MODEL.JOINT.TARGET_RATE = 0.0
    _C.MODEL.JOINT.RATE_WEIGHT_BELOW = 0.0
    # The iteration from which on there is a target: before, RATE_WEIGHT_BELOW is the weight.
    _C.MODEL.JOINT.RATE_FROM = 0
    # Weight of the squared error on the 0..255 scale.
    _C.MODEL.JOINT.DISTORTION_WEIGHT = 0.013
    # Weights of the mean absolute error of pixels in 0..1, of 1 - MS-SSIM, and of the perceptual
    # distance.
    _C.MODEL.JOINT.MAE_WEIGHT = 0.0
    _C.MODEL.JOINT.SSIM_WEIGHT = 0.0
    _C.MODEL.JOINT.PERCEPTUAL_WEIGHT = 0.0
    # The network whose features the perceptual distance compares: "lpips-alex", "lpips-vgg" or
    # "efficientnet-lite0"; empty for "lpips-alex"; "none" to leave it out of evaluation.
    _C.MODEL.JOINT.PERCEPTUAL = ""
    # A file with its ImageNet weights, torchvision's for lpips; empty for those that can be had.
    _C.MODEL.JOINT.PERCEPTUAL_FILE = ""
    # Weight (beta) of the adversarial loss, and the iteration from which on it counts; 0 for no
    # discriminator.
    _C.MODEL.JOINT.ADVERSARIAL_WEIGHT = 0.0
    _C.MODEL.JOINT.ADVERSARIAL_FROM = 0
    # Channels of the discriminator's first layer.
    _C.MODEL.JOINT.DISCRIMINATOR_WIDTH = 64
    # The learning rates of the codec and of the discriminator, against SOLVER.BASE_LR.
    _C.MODEL.JOINT.CODEC_LR_FACTOR = 0.1
    _C.MODEL.JOINT.DISCRIMINATOR_LR_FACTOR = 1.0

    _C.MODEL.TASKS = CN()
    # For CompressedMultitask and JointMultitask: any of "attributes" (MODEL.ATTRIBUTE_HEAD) and
    # "parsing" (MODEL.SEM_SEG_HEAD), and the weight of each task's loss.
    _C.MODEL.TASKS.NAMES = ("attributes", "parsing")
    _C.MODEL.TASKS.WEIGHTS = (1.0, 1.0)
    # "fixed", or "uncertainty": the weights are divided by variances that are learned.
    _C.MODEL.TASKS.WEIGHTING = "fixed"
    _C.MODEL.ATTRIBUTE_HEAD = CN()
    # How many yes/no attributes an image has.
    _C.MODEL.ATTRIBUTE_HEAD.NUM_ATTRIBUTES = 40
    # Their names; a training fills in those of its data set.
    _C.MODEL.ATTRIBUTE_HEAD.NAMES = []
    # Features whose averages over the image the head reads.
    _C.MODEL.ATTRIBUTE_HEAD.IN_FEATURES = ["p5"]

    _C.MODEL.TRANSFER = CN()
    # Lambda of formula (4): weighs all transfer losses against the task's.
    _C.MODEL.TRANSFER.WEIGHT = 1.0
    # Weight of the detector's own losses; 0 to learn from the teacher's outputs alone.
    _C.MODEL.TRANSFER.TASK_WEIGHT = 1.0
    # "mse", the mean squared error of feature maps, or "l2norm", the norm as printed in (3).
    _C.MODEL.TRANSFER.DISTANCE = "mse"
    # Anchors that are compared, over which their losses are averaged: "all" (formula 2), or those
    # that the task's own loss has "sampled".
    _C.MODEL.TRANSFER.ANCHORS = "all"
    # Masks are compared on "all" sampled proposals (formula 2) or only on the "foreground" ones.
    _C.MODEL.TRANSFER.MASKS = "all"
    # Whose heads make the outputs that are compared of the student's features: the "student"'s own
    # (formula 2), or the "teacher"'s frozen ones, so that only features learn from the teacher.
    _C.MODEL.TRANSFER.HEADS = "student"
    # Leave out feature cells and anchors in the padding of a batch.
    _C.MODEL.TRANSFER.IGNORE_PADDING = True
    _C.MODEL.TRANSFER.FEATURES = CN()
    # Feature-level transfer on the pyramid, formula (3).
    _C.MODEL.TRANSFER.FEATURES.ENABLED = True
    _C.MODEL.TRANSFER.FEATURES.WEIGHT = 1.0
    # Weights of the stages that a classifier compares, formula (1).
    _C.MODEL.TRANSFER.FEATURES.C4 = 0.0
    _C.MODEL.TRANSFER.FEATURES.C5 = 1.0
    _C.MODEL.TRANSFER.OUTPUTS = CN()
    # Output-level transfer, formula (2), with a weight for each of its five terms.
    _C.MODEL.TRANSFER.OUTPUTS.ENABLED = True
    _C.MODEL.TRANSFER.OUTPUTS.OBJECTNESS = 1.0
    _C.MODEL.TRANSFER.OUTPUTS.ANCHOR_DELTAS = 1.0
    _C.MODEL.TRANSFER.OUTPUTS.CLASS = 1.0
    _C.MODEL.TRANSFER.OUTPUTS.BOX_DELTAS = 1.0
    _C.MODEL.TRANSFER.OUTPUTS.MASK = 1.0

    # Whether the evaluation of a classifier, or of several tasks, decodes images and reports PSNR
    # and MS-SSIM; with several tasks the perceptual distance, and the bits of files, too.
    _C.TEST.DISTORTION = False

    # "SGD", "ADAM" or "ADAMW"; of a codec that learns, one of the last two. Weight decay of "ADAM"
    # is an L2 penalty, of "ADAMW" decoupled.
    _C.SOLVER.OPTIMIZER = "SGD"
    # Mixed precision, where SOLVER.AMP.ENABLED: "float16" or "bfloat16".
    _C.SOLVER.AMP.DTYPE = "float16"

    add_deeplab_config(_C)


def leaves(cfg: CN, prefix: str = "") -> dict[str, Any]:
    """Return the values of a config by their full keys, such as `MODEL.BACKBONE.NAME`."""
    values: dict[str, Any] = {}
    for key, value in cfg.items():
        inside = isinstance(value, CN)
        values |= leaves(value, f"{prefix}{key}.") if inside else {prefix + key: value}
    return values


def without_initialization(cfg: CN) -> CN:
    """A copy that does not say where a new network starts, for one whose weights are all loaded:
    the files that it was once started from need not be there any more."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.merge_from_list([each for key in INITIALIZATION_KEYS for each in (key, "")])
    return cfg


def check_source(cfg: CN) -> str:
    """INPUT.LATENT_SOURCE, or CdlError for an unknown one."""
    source = cfg.INPUT.LATENT_SOURCE
    if source not in LATENT_SOURCES:
        raise CdlError(f"INPUT.LATENT_SOURCE {source!r} is not one of {', '.join(LATENT_SOURCES)}")
    return source
