"""An existing pixel model made into one that reads latents, with unlabelled images only.

A linear bridge is fitted to the images; all else keeps the pixel model's weights. A detector may
then train on: the pixel detector is its teacher, and that one's confident detections stand in for
labels.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from pycocotools import mask as coco_mask
from tqdm import tqdm

from cdl_d2.codec import CodecChoice
from cdl_d2.codec.image_files import find_images, read_image
from cdl_d2.d2.checkpoint import SafeCheckpointer, load_all_weights
from cdl_d2.d2.config import STARTS
from cdl_d2.d2.config_files import find_config, read_config
from cdl_d2.d2.engine.prediction import class_names_of
from cdl_d2.d2.engine.run_config import RunConfig
from cdl_d2.d2.engine.train_net import Training
from cdl_d2.d2.engine.trained import evaluation_mapper_of
from cdl_d2.d2.engine.trainer import check_entries
from cdl_d2.d2.modeling.backbone.bridged_backbone import FIRST_CONVOLUTION
from cdl_d2.d2.modeling.coded_input import architecture_of
from cdl_d2.d2.modeling.teacher import RUN_CONFIG, trained_weights
from cdl_d2.device import usable_device
from cdl_d2.errors import CdlError
from cdl_d2.files import write_json, write_text
from cdl_d2.nn.latent_translation import LatentTranslation
from cdl_d2.nn.linear_bridge import LinearBridge

# Of a pixel model's architecture: the one that reads latents, and the one that is taught.
STUDENTS = {
    "GeneralizedRCNN": ("CompressedRCNN", "TransferRCNN"),
    "CompressedRCNN": ("CompressedRCNN", "TransferRCNN"),
    "RetinaNet": ("CompressedRetinaNet", None),
    "CompressedRetinaNet": ("CompressedRetinaNet", None),
    "CompressedFCOS": ("CompressedFCOS", None),
    "PanopticFPN": ("CompressedPanopticFPN", None),
    "CompressedPanopticFPN": ("CompressedPanopticFPN", None),
    "SemanticSegmentor": ("CompressedSegmentor", None),
    "CompressedSegmentor": ("CompressedSegmentor", None),
    "CompressedClassifier": ("CompressedClassifier", None),
}

# What a training, or a conversion, leaves in its folder.
MADE = ("model_final.pth", "config.yaml", "last_checkpoint")


@dataclass(frozen=True)
class Conversion:
    """What is converted.

    Attributes:
        teacher: the pixel model: output folder of a training, or a config, see read_config.
        images: folder of images, searched recursively.
        codec: whose latents the student reads.
        output: folder of what comes out, as of a training.
        weights: of the pixel model; default those of its config, see trained_weights.
        iterations: of training after the fit, for detectors.
        threshold: lowest score of a detection that stands for an object.
        annotations: COCO-format labels of the images, instead of the teacher's detections.
        overrides: KEY VALUE changes of the student's config, such as MODEL.BRIDGE.FIT_IMAGES 500.
    """

    teacher: str
    images: Path
    codec: CodecChoice
    output: Path
    weights: str | None = None
    iterations: int = 0
    threshold: float = 0.5
    annotations: Path | None = None
    overrides: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.iterations < 0:
            raise CdlError(f"--iterations {self.iterations} is below 0")

    def run(self) -> float | None:
        """Fit, or train on; an interrupted training goes on.

        Returns:
            of a fit what fit_bridge does.

        Raises:
            CdlError, OSError: for what cannot be used; if the output folder holds another model; if
                the teacher finds nothing.
        """
        cfg, files = self.student_config(), find_images(self.images)
        self._claim_output(cfg)
        if not self.iterations:
            return self._fit(cfg, files)
        return Training(self._prepare(cfg, files), resume=True).launch()

    def student_config(self) -> CfgNode:
        """The config of the student: the teacher's, with a bridge to its first convolution.

        Raises:
            CdlError, FileNotFoundError: if the teacher's is missing, or of another kind of model.
        """
        path = self._teachers_config()
        cfg = read_config(path)
        fitted, taught = STUDENTS.get(cfg.MODEL.META_ARCHITECTURE, (None, None))
        if fitted is None:
            raise CdlError(
                f"{path} is of a {cfg.MODEL.META_ARCHITECTURE}, which cannot be converted, only "
                f"{', '.join(STUDENTS)}"
            )
        if hasattr(architecture_of(cfg), "look_at") and cfg.INPUT.DOMAIN != "image":
            raise CdlError(f"{path} looks at domain {cfg.INPUT.DOMAIN!r}, not at original images")
        if self.iterations and taught is None:
            raise CdlError(
                f"a {cfg.MODEL.META_ARCHITECTURE} is not trained without labels: leave out "
                "--iterations"
            )
        weights = self._teachers_weights(path, cfg)
        options: dict[str, Any] = {
            "MODEL.META_ARCHITECTURE": taught if self.iterations else fitted,
            "MODEL.BRIDGE.BACKBONE": cfg.MODEL.BACKBONE.NAME,
            "MODEL.BRIDGE.ENTRY": FIRST_CONVOLUTION,
            "MODEL.BACKBONE.NAME": "build_bridged_backbone",
            "MODEL.WEIGHTS": weights,
            **dict.fromkeys(STARTS, ""),
            "MODEL.TEACHER.CONFIG_FILE": str(path.absolute()) if self.iterations else "",
            "MODEL.TEACHER.WEIGHTS": weights if self.iterations else "",
            "INPUT.DOMAIN": "latent",
            "INPUT.LATENT_SOURCE": "model",
            "INPUT.MASK_FORMAT": "bitmask",
            "DATASETS.TRAIN": ("targets",) if self.iterations else (),
            "DATASETS.TEST": (),
            "SOLVER.MAX_ITER": self.iterations,
            "SOLVER.STEPS": (3 * self.iterations // 4,) if self.iterations > 3 else (),
            "OUTPUT_DIR": str(self.output),
        }
        options |= {f"MODEL.CODEC.{key.upper()}": v for key, v in asdict(self.codec).items()}
        pairs = [each for pair in options.items() for each in pair]
        changed = read_config(path, [*pairs, *self.overrides])
        for key in ("META_ARCHITECTURE", "BRIDGE.BACKBONE", "BRIDGE.ENTRY", "BACKBONE.NAME"):
            if attrgetter(key)(changed.MODEL) != options[f"MODEL.{key}"]:
                raise CdlError(
                    f"MODEL.{key} follows from the pixel model, {options[f'MODEL.{key}']}: use "
                    "`cdl train` with a config of your own for another"
                )
        usable_device(changed.MODEL.DEVICE)
        return changed

    def _teachers_config(self) -> Path:
        """Find the config of the teacher."""
        folder = Path(self.teacher)
        path = folder / RUN_CONFIG if folder.is_dir() else find_config(self.teacher)
        if not path.is_file():
            raise FileNotFoundError(
                f"there is no {path}, the config of that training: write one, such as Detectron2's "
                "cfg.dump() gives"
            )
        if path.suffix == ".py":
            raise CdlError(
                f"{path} is a LazyConfig, and a YAML config is expected: convert its model in "
                "Python, see docs/tutorials/detectron2.md, LazyConfigs"
            )
        return path

    def _teachers_weights(self, path: Path, cfg: CfgNode) -> str:
        """Find the file, full path, or the URL of the weights of the teacher's config."""
        weights = self.weights or trained_weights(path, cfg.OUTPUT_DIR)
        if not weights:
            raise CdlError(f"the weights of {self.teacher} are needed: give --weights")
        return weights if "://" in weights else str(Path(weights).absolute())

    def _claim_output(self, cfg: CfgNode) -> None:
        """Make the output folder; refuse one of anything but this conversion, begun before."""
        student = self.output / "student.yaml"
        self.output.mkdir(parents=True, exist_ok=True)
        if student.exists():
            if student.read_text() != cfg.dump():
                raise CdlError(f"{student} is of another conversion: give another --output")
        elif found := [name for name in MADE if (self.output / name).exists()]:
            raise CdlError(f"{self.output} has a {found[0]} already: give another --output")

    def _fit(self, cfg: CfgNode, files: list[Path]) -> float:
        """Write the config and the fitted model, which needs no training."""
        model = build_model(cfg)
        checkpointer = SafeCheckpointer(model, str(self.output))
        checkpointer.load(cfg.MODEL.WEIGHTS, checkpointables=[])
        fitted = LinearBridge, LatentTranslation
        made = [f"{name}." for name, m in model.named_modules() if isinstance(m, fitted)]
        check_entries(checkpointer)
        lacking = [
            key
            for key in model.state_dict()
            if key not in checkpointer.loaded
            and not key.startswith(tuple(made))
            and not key.endswith("num_batches_tracked")
        ]
        if lacking:
            raise CdlError(
                f"{cfg.MODEL.WEIGHTS} lacks {len(lacking)} entries of the model, such as "
                f"{lacking[0]}: are they of this pixel model?"
            )
        random.Random(0).shuffle(files)
        count = min(cfg.MODEL.BRIDGE.FIT_IMAGES, len(files))
        explained = model.fit_bridge(map(_reader(cfg), files), count)
        if explained is None:
            raise CdlError(f"{cfg.MODEL.WEIGHTS} are of a model that reads latents already")
        cfg.MODEL.WEIGHTS = str((self.output / "model_final.pth").absolute())
        checkpointer.save("model_final")
        write_text(self.output / "config.yaml", cfg.dump())
        return explained

    def _prepare(self, cfg: CfgNode, files: list[Path]) -> RunConfig:
        """Write `student.yaml` and, without annotations, `targets.json` to the output folder, where
        they are not there yet; what `cdl train` then trains."""
        targets = self.annotations or self._targets(cfg, files)
        student = self.output / "student.yaml"
        config = RunConfig(str(student), register=[("targets", str(targets), str(self.images))])
        write_text(student, cfg.dump())
        return config

    def _targets(self, cfg: CfgNode, files: list[Path]) -> Path:
        """The file of the teacher's detections, of this conversion and no other."""
        path = self.output / "targets.json"
        made_by = {
            "teacher": cfg.MODEL.TEACHER.CONFIG_FILE,
            "weights": cfg.MODEL.TEACHER.WEIGHTS,
            "images": str(self.images.absolute()),
            "threshold": self.threshold,
        }
        if not path.exists():
            write_json(path, {"info": made_by} | self._detections(cfg, files))
            return path
        try:
            before = json.loads(path.read_text())["info"]
        except (KeyError, TypeError, ValueError) as error:
            raise CdlError(f"{path} is damaged: remove it, or give another --output") from error
        if before != made_by:
            raise CdlError(f"{path} was made with {before}, not {made_by}: give another --output")
        return path

    @torch.no_grad()
    def _detections(self, cfg: CfgNode, files: list[Path]) -> dict[str, Any]:
        """What the teacher finds, as COCO-format annotations."""
        theirs = read_config(cfg.MODEL.TEACHER.CONFIG_FILE, ["MODEL.DEVICE", cfg.MODEL.DEVICE])
        model = build_model(theirs).eval()
        load_all_weights(model, cfg.MODEL.TEACHER.WEIGHTS)
        read = _reader(theirs)
        images: list[dict] = []
        annotations: list[dict] = []
        for path in tqdm(files, unit="image"):
            item = read(path)
            height, width = item["height"], item["width"]
            found = model([item])[0]["instances"].to("cpu")
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
        categories = [{"id": i, "name": name} for i, name in enumerate(class_names_of(cfg), 1)]
        return {"images": images, "annotations": annotations, "categories": categories}


def _reader(cfg: CfgNode) -> Callable[[Path], dict[str, Any]]:
    """From an image's file to an item, resized or cropped as in a model's evaluation."""
    mapper = evaluation_mapper_of(cfg)

    def read(path: Path) -> dict[str, Any]:
        height, width = read_image(path).shape[1:]
        return mapper({"file_name": str(path), "height": height, "width": width})

    return read
