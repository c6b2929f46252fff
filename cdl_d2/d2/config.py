"""The configuration keys of this package, with a sentence each."""

from typing import Any

from detectron2.config import CfgNode as CN
from detectron2.projects.deeplab import add_deeplab_config

from cdl_d2.errors import check_choice
from cdl_d2.nn.bridge.bridge_fit import FIT_IMAGES
from cdl_d2.nn.bridge.linear_bridge import DECODER_STRIDE

LATENT_SOURCES = ("model", "mapper", "store")
AUGMENTATIONS = ("exact", "latent", "none")
PROJECT_ADVICE = (
    "those of your own project need DETECTRON2_ENV_MODULE, see docs/tutorials/detectron2.md"
)
INITIALIZATION_KEYS = (  # files that a new network is initialized from
    *("MODEL.CLASSIFIER.INIT", "MODEL.TIMM.INIT"),
    *("MODEL.LATENT_RESNET.INIT", "MODEL.LATENT_RESNET.STATISTICS"),
)


def add_cdl_config(cfg: CN) -> None:
    """Add the keys for codecs, latent models and distillation to a Detectron2 config."""
    _C = cfg

    # Model input: "image", the original image (no codec is built), as for Detectron2's own models;
    # "latent", the codec's quantized latent; "reconstruction", the reconstructed image.
    _C.INPUT.DOMAIN = "image"
    # Where images are encoded: in the "model" (on its device, with any mapper), in the "mapper" (in
    # the loader's workers, on the CPU), or ahead of time: latents are read from a latent "store".
    _C.INPUT.LATENT_SOURCE = "model"
    # Folders of the latent stores of the training and test data, by `cdl data encode`.
    _C.INPUT.LATENT_STORE_TRAIN = ""
    _C.INPUT.LATENT_STORE_TEST = ""

    # Side in pixels of a classifier's square images; 0 for images as they are, which must have one
    # size unless AUGMENTATION is "latent".
    _C.INPUT.IMAGE_SIZE = 256
    # Augmentation of a classifier's training data: "exact", random crops and flips of the image,
    # which is then encoded; "latent", crops and flips of the latent, an approximation; "none".
    _C.INPUT.AUGMENTATION = "exact"
    # Side in latent positions to which "latent" resizes latents, and of the crop from them.
    _C.INPUT.LATENT_RESIZE = 32
    _C.INPUT.LATENT_CROP = 28

    _C.MODEL.CODEC = CN()
    # CompressAI's name of the codec, or "tiny-bmshj2018-hyperprior", whose weights are included.
    _C.MODEL.CODEC.NAME = "bmshj2018-hyperprior"
    # Quality, 1 (smallest files) to 8; 1 to 6 for cheng2020; 0 to 2 for the tiny codec. For a
    # variable-rate codec ("mbt2018-mean-vbr" and others), the rate at which it codes.
    _C.MODEL.CODEC.QUALITY = 4
    # All qualities that the model reads, including QUALITY. Training encodes each image at one of
    # them at random, evaluation at QUALITY. Empty for QUALITY alone.
    _C.MODEL.CODEC.QUALITIES = []
    # Distortion metric that the codec was trained for, "mse" or "ms-ssim".
    _C.MODEL.CODEC.METRIC = "mse"
    # File with the codec's weights; "{quality}" in its path is replaced by the quality. Empty for
    # CompressAI's zoo or the included weights; "untrained" for random ones, to count and time.
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
    # Initialization of the trunk: a latent classifier's checkpoint or torchvision's ResNet-50.
    _C.MODEL.LATENT_RESNET.INIT = ""
    # File of each channel's mean and standard deviation, by `cdl latents statistics`; may be empty.
    _C.MODEL.LATENT_RESNET.STATISTICS = ""

    # Class names; training fills in those of its data set.
    _C.MODEL.CLASS_NAMES = []

    _C.MODEL.CLASSIFIER = CN()
    # For latents "latent_resnet" (MODEL.LATENT_RESNET), "cresnet39" or "cresnet51"; or an RGB
    # model, which reads latents through a bridge to its first convolution: a ResNet of
    # torchvision, such as "resnet50", or any of timm, such as "timm/tf_efficientnet_lite0".
    _C.MODEL.CLASSIFIER.NETWORK = "latent_resnet"
    # Number of classes.
    _C.MODEL.CLASSIFIER.NUM_CLASSES = 1000
    # Scales the channels of an RGB resnet50, for small experiments.
    _C.MODEL.CLASSIFIER.WIDTH = 1.0
    # Whether cresnet39 reads the predicted standard deviations (scales) beside the latent, and
    # whether it reads log(1 + scales) instead of the scales.
    _C.MODEL.CLASSIFIER.SCALES = True
    _C.MODEL.CLASSIFIER.LOG_SCALES = True
    # Initialization of an RGB model or of a cResNet's stages: a file of torchvision's or timm's
    # weights, or "imagenet" for their zoos.
    _C.MODEL.CLASSIFIER.INIT = ""

    _C.MODEL.BRIDGE = CN()
    # RGB backbone behind the bridge of "build_bridged_backbone": any registered one.
    _C.MODEL.BRIDGE.BACKBONE = "build_resnet_fpn_backbone"
    # Layer whose output the bridge replaces: "conv1", the first convolution, or in a ResNet the
    # "stem", "res2" (stride 4) or "res3" (stride 8). The layers behind it keep their names, and are
    # initialized from MODEL.WEIGHTS.
    _C.MODEL.BRIDGE.ENTRY = "conv1"
    # For "conv1": stride in pixels of the decoder layers before the linear map: 8, 4, or 16 for no
    # decoder layers; not below the convolution's own.
    _C.MODEL.BRIDGE.STRIDE = DECODER_STRIDE
    # Number of training images to which the linear map is fitted, before training.
    _C.MODEL.BRIDGE.FIT_IMAGES = FIT_IMAGES
    # For the other entries: "decoder", the first layers of the codec's decoder and a projection, or
    # a transform module of stride 4, "deconv" or "res".
    _C.MODEL.BRIDGE.KIND = "decoder"
    # Whether the layers of the decoder are frozen.
    _C.MODEL.BRIDGE.FROZEN = False
    # Channels between the two halves of a linear map (its rank) or of a transform module; 0 for the
    # number of its input channels.
    _C.MODEL.BRIDGE.WIDTH = 0

    # Whether a bridge reads the coded positions below and right of the image, too, to which the
    # codec pads it. `cdl convert` sets it; models that were trained without them do not read them.
    _C.MODEL.BRIDGE.MARGIN = False

    _C.MODEL.TIMM = CN()
    # For "build_timm_backbone" and "build_timm_fpn_backbone": any network of timm with stages; its
    # features get the names of a ResNet's. PIXEL_MEAN and PIXEL_STD must be those of its training.
    _C.MODEL.TIMM.NAME = "tf_efficientnet_lite0"
    # Initialization: a file of weights, or "imagenet" for timm's zoo; empty for random weights.
    _C.MODEL.TIMM.INIT = ""
    # Names of the features that it returns.
    _C.MODEL.TIMM.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    # Stride of the last feature in pixels: 32, or 16 or 8 where the network can be dilated.
    _C.MODEL.TIMM.OUTPUT_STRIDE = 32
    # Its normalization: "BN", or "FrozenBN" (for small batches).
    _C.MODEL.TIMM.NORM = "FrozenBN"

    _C.MODEL.SELECTION = CN()
    # Selection of latent channels: "none" for all, "gate", dynamic, by a learned gate for each
    # image, or "fixed", static, those of CHANNELS.
    _C.MODEL.SELECTION.KIND = "none"
    # For "fixed": channel numbers, such as `cdl latents select` prints; or the file that
    # `cdl latents select --output` writes, and how many of its first channels. Training copies
    # their numbers to CHANNELS.
    _C.MODEL.SELECTION.CHANNELS = []
    _C.MODEL.SELECTION.FILE = ""
    _C.MODEL.SELECTION.COUNT = 0
    # Weight of the selected channels' bits per pixel in the loss of a "gate"; 0 for
    # formula (3) of Liu et al.
    _C.MODEL.SELECTION.RATE_WEIGHT = 0.1
    # Temperature of the gate at the first and at the last iteration; exponential in between.
    _C.MODEL.SELECTION.TEMPERATURES = (5.0, 0.5)
    # Learning rate of the gate, as a factor of SOLVER.BASE_LR.
    _C.MODEL.SELECTION.LR_FACTOR = 10.0
    # Initial logit of keeping a channel, and minus that of dropping it: 1 keeps 88 %, 0 half.
    _C.MODEL.SELECTION.BIAS = 1.0

    _C.MODEL.TEACHER = CN()
    # The teacher's YAML config: a path, relative to this config's folder or the working folder, or
    # a name relative to the configs of this package or of Detectron2's model zoo. A detector's
    # LazyConfig (.py) is a program, and must be of these configs or named on the command line.
    _C.MODEL.TEACHER.CONFIG_FILE = ""
    # The teacher's weights; empty for model_final.pth beside its config or in its OUTPUT_DIR, the
    # weights of Detectron2's zoo, or else its MODEL.WEIGHTS. For a classifier without a YAML: a
    # file of torchvision's ResNet-50, or "imagenet" for torchvision's zoo.
    _C.MODEL.TEACHER.WEIGHTS = ""

    _C.MODEL.JOINT = CN()
    # For JointClassifier and JointMultitask: trained parts, of "encoder", "hyperprior", "decoder"
    # and "task".
    _C.MODEL.JOINT.TRAIN = ("encoder", "hyperprior", "decoder", "task")
    # Gradient of the quantizer: "noise" or "straight-through".
    _C.MODEL.JOINT.QUANTIZATION = "straight-through"
    # Training steps: "joint", codec and task network together, or "alternate", in turn.
    _C.MODEL.JOINT.STEPS = "joint"
    # First iteration that trains the tasks; before, only the codec is trained.
    _C.MODEL.JOINT.TASKS_FROM = 0
    # Weight of a classifier's loss; those of several tasks are in MODEL.TASKS.
    _C.MODEL.JOINT.TASK_WEIGHT = 1.0
    # Weight of bits per pixel.
    _C.MODEL.JOINT.RATE_WEIGHT = 1.0
    # Target of the rate in bits per pixel: below it, RATE_WEIGHT_BELOW replaces RATE_WEIGHT; 0 for
    # no target.
    _C.MODEL.JOINT.TARGET_RATE = 0.0
    _C.MODEL.JOINT.RATE_WEIGHT_BELOW = 0.0
    # First iteration with the target; before, RATE_WEIGHT_BELOW is the weight.
    _C.MODEL.JOINT.RATE_FROM = 0
    # Weight of the squared error on the 0..255 scale.
    _C.MODEL.JOINT.DISTORTION_WEIGHT = 0.013
    # Weights of the mean absolute error of pixels in 0..1, of 1 - MS-SSIM, and of the perceptual
    # distance.
    _C.MODEL.JOINT.MAE_WEIGHT = 0.0
    _C.MODEL.JOINT.SSIM_WEIGHT = 0.0
    _C.MODEL.JOINT.PERCEPTUAL_WEIGHT = 0.0
    # Network of the perceptual distance: "lpips-alex", "lpips-vgg" or "efficientnet-lite0"; empty
    # for "lpips-alex"; "none" to omit the distance in evaluation.
    _C.MODEL.JOINT.PERCEPTUAL = ""
    # File with its ImageNet weights, torchvision's for lpips; empty to download or import them.
    _C.MODEL.JOINT.PERCEPTUAL_FILE = ""
    # Weight (beta) of the adversarial loss, 0 for no discriminator, and its first iteration.
    _C.MODEL.JOINT.ADVERSARIAL_WEIGHT = 0.0
    _C.MODEL.JOINT.ADVERSARIAL_FROM = 0
    # Channels of the discriminator's first layer.
    _C.MODEL.JOINT.DISCRIMINATOR_WIDTH = 64
    # Learning rates of codec and discriminator, as factors of SOLVER.BASE_LR.
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
    # Number of yes-or-no attributes of an image.
    _C.MODEL.ATTRIBUTE_HEAD.NUM_ATTRIBUTES = 40
    # Their names; training fills in those of its data set.
    _C.MODEL.ATTRIBUTE_HEAD.NAMES = []
    # Features that the head averages over the image.
    _C.MODEL.ATTRIBUTE_HEAD.IN_FEATURES = ["p5"]

    _C.MODEL.TRANSFER = CN()
    # Weight of all transfer losses, lambda of formula (4).
    _C.MODEL.TRANSFER.WEIGHT = 1.0
    # Weight of the detector's own losses; 0 for distillation alone, without labels.
    _C.MODEL.TRANSFER.TASK_WEIGHT = 1.0
    # Distance of feature maps: "mse", the mean squared error, or "l2norm", as printed in (3).
    _C.MODEL.TRANSFER.DISTANCE = "mse"
    # Anchors whose outputs are compared: "all" (formula 2), or those "sampled" by the task loss.
    _C.MODEL.TRANSFER.ANCHORS = "all"
    # Proposals whose masks are compared: "all" sampled ones (formula 2), or the "foreground" ones.
    _C.MODEL.TRANSFER.MASKS = "all"
    # Heads applied to the student's features for output transfer: the "student"'s own (formula 2),
    # or the "teacher"'s frozen ones.
    _C.MODEL.TRANSFER.HEADS = "student"
    # Exclude feature positions and anchors in the padding of a batch.
    _C.MODEL.TRANSFER.IGNORE_PADDING = True
    _C.MODEL.TRANSFER.FEATURES = CN()
    # Feature-level transfer on the pyramid, formula (3).
    _C.MODEL.TRANSFER.FEATURES.ENABLED = True
    _C.MODEL.TRANSFER.FEATURES.WEIGHT = 1.0
    # Weights of a classifier's stages, formula (1).
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

    # Whether the evaluation of a classifier or multi-task model decodes images and reports PSNR and
    # MS-SSIM; for a multi-task model also the perceptual distance and the bits of files.
    _C.TEST.DISTORTION = False

    # Optimizer: "SGD", "ADAM" (weight decay is an L2 penalty) or "ADAMW" (decoupled); one of the
    # last two for a codec that is trained.
    _C.SOLVER.OPTIMIZER = "SGD"
    # Mixed precision, where SOLVER.AMP.ENABLED: "float16" or "bfloat16".
    _C.SOLVER.AMP.DTYPE = "float16"

    add_deeplab_config(_C)


def leaves(cfg: CN, prefix: str = "") -> dict[str, Any]:
    """Return the values of a config by their full keys: MODEL.BACKBONE.NAME, for example."""
    values: dict[str, Any] = {}
    for key, value in cfg.items():
        is_node = isinstance(value, CN)
        values |= leaves(value, f"{prefix}{key}.") if is_node else {prefix + key: value}
    return values


def without_initialization(cfg: CN) -> CN:
    """Return a copy without files of initialization, for a model whose weights are all loaded.

    The files need not exist any more.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.merge_from_list([word for key in INITIALIZATION_KEYS for word in (key, "")])
    return cfg


def check_source(cfg: CN) -> str:
    """Return INPUT.LATENT_SOURCE; raise CdlError for an unknown one."""
    source = cfg.INPUT.LATENT_SOURCE
    check_choice("INPUT.LATENT_SOURCE", source, LATENT_SOURCES)
    return source
