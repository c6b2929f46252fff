"""Models by name, as `detectron2.model_zoo` has them; Detectron2 itself is not needed."""

from difflib import get_close_matches

from cdl_d2.errors import CdlError
from cdl_d2.packaged import CONFIGS


def get_config_file(name: str) -> str:
    """The path of a config that comes with the package.

    Args:
        name: relative to the folder of configs, such as `detection/latent_mask_rcnn_R50_FPN.yaml`.

    Raises:
        CdlError: if there is no such config.
    """
    names = [path.relative_to(CONFIGS).as_posix() for path in sorted(CONFIGS.rglob("*.yaml"))]
    if name not in names:
        near = get_close_matches(name, names) or names
        raise CdlError(f"no config {name!r} comes with cdl_d2; there are {', '.join(near)}")
    return str(CONFIGS / name)
