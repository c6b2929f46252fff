"""An existing pixel detector made into one that reads latents, with unlabelled images only.

The pixel detector is the teacher, and its confident detections stand in for labels;
MODEL.TRANSFER.TASK_WEIGHT says how much they count beside its outputs.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from pycocotools import mask as coco_mask
from tqdm import tqdm

from cdl_d2.codec import CodecChoice
from cdl_d2.codec.image_files import find_images, read_image
from cdl_d2.d2.config import read_config
from cdl_d2.d2.engine.run_config import RunConfig
from cdl_d2.d2.engine.tasks import class_count
from cdl_d2.d2.engine.trained import evaluation_mapper, load_trained
from cdl_d2.errors import CdlError
from cdl_d2.files import write_atomically, write_json

BACKBONES = {"build_resnet_fpn_backbone": "build_bridged_resnet_fpn_backbone"}


@dataclass(frozen=True)
class Conversion:
    """What is converted.

    Attributes:
        teacher: output folder of a pixel detector's training: `config.yaml`, `model_final.pth`.
        images: folder of images, searched recursively.
        codec: whose latents the student reads.
        output: folder of the student's training.
        entry: see MODEL.BRIDGE.ENTRY; `stem` or `res2`.
        threshold: lowest score of a detection that stands for an object.
        annotations: COCO-format labels of the images, instead of the teacher's detections.
        overrides: KEY VALUE changes of the student's config, such as SOLVER.MAX_ITER 1000.
    """

    teacher: Path
    images: Path
    codec: CodecChoice
    output: Path
    entry: str = "stem"
    threshold: float = 0.5
    annotations: Path | None = None
    overrides: tuple[str, ...] = ()

    def student_config(self) -> CfgNode:
        """The config of the student: the teacher's, behind a bridge.

        Raises:
            CdlError, FileNotFoundError: if the teacher's is missing, or of another kind of model.
        """
        path = self.teacher / "config.yaml"
        cfg = read_config(path)
        if cfg.MODEL.BACKBONE.NAME not in BACKBONES:
            raise CdlError(
                f"the teacher's MODEL.BACKBONE.NAME is {cfg.MODEL.BACKBONE.NAME}: only detectors "
                f"with {', '.join(BACKBONES)} can be converted"
            )
        weights = str((self.teacher / "model_final.pth").absolute())
        codec = {f"MODEL.CODEC.{key.upper()}": value for key, value in asdict(self.codec).items()}
        options: dict[str, Any] = {
            "MODEL.META_ARCHITECTURE": "TransferRCNN",
            "MODEL.BACKBONE.NAME": "build_bridged_backbone",
            "MODEL.BRIDGE.BACKBONE": cfg.MODEL.BACKBONE.NAME,
            "MODEL.WEIGHTS": weights,
            "MODEL.TEACHER.CONFIG_FILE": str(path.absolute()),
            "MODEL.TEACHER.WEIGHTS": weights,
            "INPUT.DOMAIN": "latent",
            "INPUT.MASK_FORMAT": "bitmask",
            "DATASETS.TRAIN": ("targets",),
            "DATASETS.TEST": (),
            "OUTPUT_DIR": str(self.output),
            **codec,
        }
        pairs = [each for pair in options.items() for each in pair]
        return read_config(path, [*pairs, *self.overrides])

    def prepare(self) -> RunConfig:
        """Write `student.yaml` and, without annotations, `targets.json` to the output folder, where
        they are not there yet; what `cdl train` then trains.

        Raises:
            CdlError, OSError: for what cannot be used; if the teacher finds nothing.
        """
        cfg, student = self.student_config(), self.output / "student.yaml"
        self.output.mkdir(parents=True, exist_ok=True)
        with write_atomically(student) as temporary:
            temporary.write_text(cfg.dump())
        targets = self.annotations or self._targets(cfg)
        return RunConfig(str(student), register=[("targets", str(targets), str(self.images))])

    def _targets(self, cfg: CfgNode) -> Path:
        """The file of the teacher's detections, of this conversion and no other."""
        path = self.output / "targets.json"
        made_by = {
            "teacher": str(self.teacher.absolute()),
            "images": str(self.images.absolute()),
            "threshold": self.threshold,
        }
        if not path.exists():
            found = self._detections(class_count(cfg), cfg.MODEL.DEVICE)
            write_json(path, {"info": made_by} | found)
        elif (before := json.loads(path.read_text())["info"]) != made_by:
            raise CdlError(f"{path} was made with {before}, not {made_by}: give another --output")
        return path

    @torch.no_grad()
    def _detections(self, classes: int, device: str) -> dict[str, Any]:
        """What the teacher finds, as COCO-format annotations."""
        model, mapper = load_trained(self.teacher, device), evaluation_mapper(self.teacher)
        images: list[dict] = []
        annotations: list[dict] = []
        for path in tqdm(find_images(self.images), unit="image"):
            height, width = read_image(path).shape[1:]
            record = {"file_name": str(path), "height": height, "width": width}
            found = model([mapper(record)])[0]["instances"].to("cpu")
            found = found[found.scores >= self.threshold]
            name = path.relative_to(self.images).as_posix()
            image = {"id": len(images), "file_name": name, "height": height, "width": width}
            images.append(image)
            for box, label, mask in zip(
                found.pred_boxes.tensor.tolist(),
                found.pred_classes.tolist(),
                found.pred_masks.numpy() if found.has("pred_masks") else [None] * len(found),
                strict=True,
            ):
                left, top, right, bottom = box
                entry = {
                    "id": len(annotations) + 1,
                    "image_id": image["id"],
                    "category_id": label + 1,
                    "bbox": [left, top, right - left, bottom - top],
                }
                if mask is not None:
                    rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
                    entry["segmentation"] = rle | {"counts": rle["counts"].decode()}
                annotations.append(entry)
        if not annotations:
            raise CdlError(
                f"the teacher finds nothing above {self.threshold} in {self.images}: lower the "
                "threshold, or give images of what it knows"
            )
        categories = [{"id": index + 1, "name": str(index)} for index in range(classes)]
        return {"images": images, "annotations": annotations, "categories": categories}
