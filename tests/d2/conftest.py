"""Small detectors and batches for the Detectron2 tests."""

import importlib.util
import shutil
from pathlib import Path

import pytest
import torch

if importlib.util.find_spec("detectron2"):  # each test module says itself that it is skipped
    from detectron2.config import get_cfg
    from detectron2.structures import BitMasks, Boxes, Instances
    from detectron2.utils.events import EventStorage

    from cdl_d2.d2 import SafeCheckpointer, Trainer, add_cdl_config

CONFIGS = Path(__file__).parents[2] / "configs"
SMALL = [
    *("MODEL.LATENT_RESNET.WIDTH", 1 / 16, "MODEL.LATENT_RESNET.CONV4_BLOCKS", [1, 1, 1]),
    *("MODEL.LATENT_RESNET.CONV5_BLOCKS", 1, "MODEL.FPN.OUT_CHANNELS", 16),
    *("MODEL.FPN.NORM", "BN", "MODEL.LATENT_RESNET.NORM", "BN"),
    *("MODEL.ROI_BOX_HEAD.FC_DIM", 16, "MODEL.ROI_MASK_HEAD.CONV_DIM", 16),
    *("MODEL.ROI_BOX_HEAD.NUM_CONV", 0, "MODEL.ROI_MASK_HEAD.NORM", ""),
    *("MODEL.ROI_MASK_HEAD.NUM_CONV", 1, "MODEL.ROI_HEADS.NUM_CLASSES", 2),
    *("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 16, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0),
    *("TEST.DETECTIONS_PER_IMAGE", 10, "INPUT.MIN_SIZE_TRAIN", (96,), "INPUT.MIN_SIZE_TEST", 96),
    *("INPUT.MASK_FORMAT", "polygon", "SOLVER.IMS_PER_BATCH", 2),
]
PIXEL = [
    *("MODEL.RESNETS.DEPTH", 50, "MODEL.RESNETS.STEM_OUT_CHANNELS", 8),
    *("MODEL.RESNETS.RES2_OUT_CHANNELS", 16, "MODEL.RESNETS.WIDTH_PER_GROUP", 4),
    *("MODEL.RESNETS.NORM", "BN"),
]


def small_cfg(kind: str, *options):
    """The config of a small detector of two classes: `latent`, `bridge`, `reconstruction` or
    `pixel`, a Mask R-CNN; or `latent_retinanet` and others of configs/detection/small/."""
    cfg = get_cfg()
    add_cdl_config(cfg)
    name = kind if "_" in kind else f"{kind}_mask_rcnn"
    cfg.merge_from_file(str(CONFIGS / "detection" / "small" / f"{name}_small.yaml"))
    wide = [] if kind.startswith("latent") else PIXEL
    cfg.merge_from_list([*SMALL, *wide, "DATASETS.TRAIN", (), "DATASETS.TEST", (), *options])
    return cfg


def small_model(cfg):
    """A detector with the same random weights every time."""
    torch.manual_seed(0)
    return Trainer.build_model(cfg)


@pytest.fixture(scope="session")
def teacher_folder(tmp_path_factory):
    """A folder with YAML and weights of a small teacher."""
    cfg, folder = small_cfg("pixel"), tmp_path_factory.mktemp("teacher")
    cfg.MODEL.WEIGHTS = str(folder / "teacher.pth")
    SafeCheckpointer(small_model(cfg), str(folder)).save("teacher")
    (folder / "teacher.yaml").write_text(cfg.dump(), encoding="utf-8")
    return folder


@pytest.fixture
def teacher_files(teacher_folder, tmp_path):
    """YAML and weights of the small teacher, to be changed or removed."""
    path, weights = (tmp_path / f"teacher.{suffix}" for suffix in ("yaml", "pth"))
    text = (teacher_folder / path.name).read_text(encoding="utf-8")
    path.write_text(text.replace(str(teacher_folder), str(tmp_path)), encoding="utf-8")
    shutil.copy(teacher_folder / weights.name, weights)
    return path, weights


@pytest.fixture
def transfer_cfg(teacher_files):
    """A small latent student with the small teacher."""
    path, weights = teacher_files
    return small_cfg(
        "latent", "MODEL.TEACHER.CONFIG_FILE", str(path), "MODEL.TEACHER.WEIGHTS", str(weights)
    )


@pytest.fixture
def storage():
    with EventStorage() as events:
        yield events


def make_item(height: int, width: int, boxes=((8, 8, 40, 40), (30, 20, 60, 50)), seed: int = 0):
    """A training item as Detectron2's mapper gives it: BGR image in 0..255 and instances."""
    rng = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (3, height, width), generator=rng, dtype=torch.uint8)
    instances = Instances((height, width))
    instances.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.gt_classes = torch.arange(len(boxes)) % 2
    masks = torch.zeros(len(boxes), height, width, dtype=torch.bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
        mask[top:bottom, left:right] = True
    instances.gt_masks = BitMasks(masks)
    return {"image": image, "height": height, "width": width, "instances": instances}
