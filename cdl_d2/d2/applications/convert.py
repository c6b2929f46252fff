"""An existing pixel model made into one that reads latents, with unlabelled images only.

A linear bridge is fitted to the images; all else keeps the pixel model's weights. A detector may
then train on: the pixel detector is its teacher, and that one's confident detections stand in for
labels.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import nn

from cdl_d2.codec import CodecChoice
from cdl_d2.codec.io.image_files import find_images
from cdl_d2.d2.applications.pseudo_labels import detect_objects, image_reader
from cdl_d2.d2.checkpoint import SafeCheckpointer
from cdl_d2.d2.config import STARTS
from cdl_d2.d2.config_files import find_config, read_config
from cdl_d2.d2.engine.run_config import RunConfig, check_device
from cdl_d2.d2.engine.train_net import Training
from cdl_d2.d2.engine.trainer import check_entries
from cdl_d2.d2.modeling.backbone.bridged_backbone import FIRST_CONVOLUTION
from cdl_d2.d2.modeling.building import build_model
from cdl_d2.d2.modeling.teacher import FINAL, RUN_CONFIG, trained_weights
from cdl_d2.errors import CdlError
from cdl_d2.files import sha256_of, write_json, write_text
from cdl_d2.nn.bridge.latent_translation import LatentTranslation
from cdl_d2.nn.bridge.linear_bridge import LinearBridge

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
MADE = (FINAL, RUN_CONFIG, "last_checkpoint")


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
        self._check_output(cfg)
        with self._output_folder():
            if not self.iterations:
                return self._fit(cfg, files)
            config = self._prepare(cfg, files)
        return Training(config, resume=True).launch()

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
        if cfg.INPUT.DOMAIN != "image":
            raise CdlError(f"{path} looks at domain {cfg.INPUT.DOMAIN!r}, not at original images")
        if self.iterations and (taught is None or cfg.MODEL.KEYPOINT_ON):
            kind = "model of keypoints" if cfg.MODEL.KEYPOINT_ON else cfg.MODEL.META_ARCHITECTURE
            raise CdlError(f"a {kind} is not trained without labels: leave out --iterations")
        weights = self._teachers_weights(path, cfg)
        options: dict[str, Any] = {
            "MODEL.META_ARCHITECTURE": taught if self.iterations else fitted,
            "MODEL.BRIDGE.BACKBONE": cfg.MODEL.BACKBONE.NAME,
            "MODEL.BRIDGE.ENTRY": FIRST_CONVOLUTION,
            "MODEL.BACKBONE.NAME": "build_bridged_backbone",
            # In a training the first stages adapt to features that come from latents.
            "MODEL.BACKBONE.FREEZE_AT": 0 if self.iterations else cfg.MODEL.BACKBONE.FREEZE_AT,
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
        check_device(changed)
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
        return path

    def _teachers_weights(self, path: Path, cfg: CfgNode) -> str:
        """Find the file, full path, or the URL of the weights of the teacher's config."""
        weights = self.weights or trained_weights(path, cfg.OUTPUT_DIR)
        if not weights:
            raise CdlError(f"the weights of {self.teacher} are needed: give --weights")
        return weights if "://" in weights else str(Path(weights).absolute())

    def _check_output(self, cfg: CfgNode) -> None:
        """Raise CdlError if the output folder has a model, unless this conversion is on its way to
        it and was interrupted."""
        left = [name for name in MADE if (self.output / name).exists()]
        path, text = self._claim(cfg)
        begun = path.exists() and path.read_text(encoding="utf-8") in (text, cfg.dump())
        if left and not (begun and (self.iterations or left == [RUN_CONFIG])):
            raise CdlError(
                f"{self.output} has a {left[0]} of another conversion, or of one that has ended: "
                "give another --output"
            )

    def _claim(self, cfg: CfgNode) -> tuple[Path, str]:
        """Return the file that tells a conversion from others, and its text: before a training
        `student.yaml`, which names the data too, or else the config of what is fitted."""
        if not self.iterations:
            fitted = cfg.clone()
            fitted.MODEL.WEIGHTS = str((self.output / FINAL).absolute())
            return self.output / RUN_CONFIG, fitted.dump()
        labels = sha256_of(self.annotations) if self.annotations else None
        data = {"images": str(self.images.absolute()), "annotations": labels}
        return self.output / "student.yaml", f"# {json.dumps(data)}\n{cfg.dump()}"

    @contextmanager
    def _output_folder(self) -> Iterator[None]:
        """Make the output folder; a new one goes again if the block fails and leaves it empty."""
        is_new = not self.output.exists()
        self.output.mkdir(parents=True, exist_ok=True)
        try:
            yield
        except BaseException:
            with suppress(OSError):  # it is not empty
                if is_new:
                    self.output.rmdir()
            raise

    def _fit(self, cfg: CfgNode, files: list[Path]) -> float:
        """Write the config and the fitted model, which needs no training.

        Returns:
            see fit_bridge.
        """
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
        read = image_reader(cfg)
        explained = model.fit_bridge(map(read, files), count)
        if explained is None:
            raise CdlError(f"{cfg.MODEL.WEIGHTS} are of a model that reads latents already")
        _check_prediction(model, read(files[0]))
        write_text(*self._claim(cfg))
        checkpointer.save(Path(FINAL).stem)
        return explained

    def _prepare(self, cfg: CfgNode, files: list[Path]) -> RunConfig:
        """Write `student.yaml` and, without annotations, `targets.json` to the output folder, where
        they are not there yet; what `cdl train` then trains."""
        targets = self.annotations or self._targets(cfg, files)
        student, text = self._claim(cfg)
        write_text(student, text)
        return RunConfig(str(student), register=[("targets", str(targets), str(self.images))])

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
            detections = detect_objects(cfg, self.images, files, self.threshold)
            write_json(path, {"info": made_by} | detections)
            return path
        try:
            before = json.loads(path.read_text(encoding="utf-8"))["info"]
        except (KeyError, TypeError, ValueError) as error:
            raise CdlError(f"{path} is damaged: remove it, or give another --output") from error
        if before != made_by:
            raise CdlError(f"{path} was made with {before}, not {made_by}: give another --output")
        return path


@torch.no_grad()
def _check_prediction(model: nn.Module, item: dict[str, Any]) -> None:
    """Raise CdlError if a converted model cannot predict an image like those that it was fitted
    to."""
    try:
        model.eval()([item])
    except (AssertionError, RuntimeError, ValueError) as error:
        height, width = item["image"].shape[1:]
        raise CdlError(
            f"the converted model cannot predict an image of {height} x {width} pixels: {error}"
        ) from error
