"""Conversion of a trained RGB detector of torchvision to latent input, with unlabelled images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from cdl_d2.codec import Codec
from cdl_d2.codec.io.image_files import read_image
from cdl_d2.codec.io.state_dicts import fingerprint
from cdl_d2.conversion import Preprocessing
from cdl_d2.conversion.comparison import compare
from cdl_d2.conversion.folder_conversion import FolderConversion
from cdl_d2.conversion.image_sets import distil_on_images, list_images, split_images
from cdl_d2.conversion.output_folder import conversion_folder
from cdl_d2.conversion.proposal_labels import LEAST_SCORE, ProposalLabels
from cdl_d2.conversion.report import CONVERTED, DECODED, FINE_TUNED, NOT_TUNED, Report
from cdl_d2.conversion.sample_network import SampleNetwork, SamplePredictor
from cdl_d2.files import WEIGHTS_FILE
from cdl_d2.nn.bridge.bridge import FIRST_CONVOLUTION
from cdl_d2.nn.bridge.bridge_fit import FIT_IMAGES, fit_bridge
from cdl_d2.nn.bridge.stage import run_to
from cdl_d2.nn.input.domains import LATENT
from cdl_d2.tv.checkpoint import load_initial_weights, load_rgb_detector, save_detector
from cdl_d2.tv.compressed_mask_rcnn import CompressedMaskRCNN
from cdl_d2.tv.detector_config import DetectorConfig, build_detector, evaluation_sizes

REPLACED = {"stem": "maxpool", "res2": "layer1", "res3": "layer2"}  # modules of the RGB network
REPORT_IMAGES = 16  # at most


@dataclass
class DetectorResult:
    """Result of a conversion, a `ComparedConversion`; attributes as of `Conversion`."""

    codec: Codec
    kept_aside: Sequence[Path]
    explained: float | None
    history: list[dict[str, float]]
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    teacher: Any = None
    compared: dict[str, SamplePredictor] | None = None
    report: Report | None = None

    def read(self, file: Path) -> torch.Tensor:
        """Return an image, 3 x H x W, uint8, resized as in evaluation."""
        return self.preprocessing.apply(read_image(file))


@dataclass(frozen=True, eq=False)
class DetectorConversion(FolderConversion):
    """Conversion of a detector of torchvision.

    `source` is the checkpoint of an RGB detector, or `coco`; `entry` is `conv1` (the default),
    `stem`, `res2` or `res3`.
    """

    source: str

    def run(self) -> DetectorResult:
        """Convert, write the result, and compare it; continue if it was interrupted.

        Raises:
            CdlError, OSError: for unusable arguments, or an output folder of something else.
        """
        teacher, rgb_config = load_rgb_detector(self.source)
        config = self._config(rgb_config)
        with conversion_folder(self.output, self.record(), [WEIGHTS_FILE]):
            kept_aside, files = split_images(list_images(self.images))
            student = build_detector(config)
            load_initial_weights(student, self.source)
            student, teacher = (d.to(self.device).eval() for d in (student, teacher))
            preprocessing = _preprocessing(rgb_config)
            explained = None
            if self.domain == LATENT:
                explained = self._fit(student, teacher, preprocessing, files)
            networks = (SampleNetwork(detector, "RGB") for detector in (student, teacher))
            history = distil_on_images(
                *(*networks, preprocessing, files, self.options, self.output),
                labels=proposal_labels(student, teacher),
            )
            result = DetectorResult(
                *(student.coded_input.codec, kept_aside[:REPORT_IMAGES], explained, history),
                *(preprocessing, config.classes),
            )
            self._compare(result, teacher, student)
            result.report.save(self.output)
            config.codec.copy_weights(self.output)
            save_detector(self.output / WEIGHTS_FILE, config, student.cpu().state_dict())
        return result

    def _config(self, rgb: DetectorConfig) -> DetectorConfig:
        bridge = (self.entry or FIRST_CONVOLUTION) if self.domain == LATENT else ""
        architecture = replace(rgb.architecture, bridge=bridge, margin=bool(bridge))
        codec = self.absolute_codec()
        return replace(rgb, domain=self.domain, codec=codec, architecture=architecture)

    def describe_model(self) -> dict[str, Any]:
        teacher, config = load_rgb_detector(self.source)
        return {"weights": fingerprint(teacher), "config": asdict(self._config(config))}

    def _fit(
        self,
        student: CompressedMaskRCNN,
        teacher: CompressedMaskRCNN,
        preprocessing: Preprocessing,
        files: Sequence[Path],
    ) -> float | None:
        run_stage = None
        if name := REPLACED.get(self.entry):
            module = teacher.backbone.body[name]
            run_stage = lambda x: run_to(module, partial(teacher.backbone, x))[1]  # noqa: E731
        samples = ({"image": preprocessing.apply(read_image(file))} for file in files)
        count = min(FIT_IMAGES, len(files))
        by_all = partial(student.coded_input.encode_by_all, device=student.device)
        return fit_bridge(
            *(student, samples, count, student.encode, student.normalize, by_all), run_stage
        )

    def _compare(
        self, result: DetectorResult, teacher: CompressedMaskRCNN, student: CompressedMaskRCNN
    ) -> None:
        """Add the report of a result."""
        result.teacher, converted = (
            SamplePredictor(detector, "RGB", result.codec) for detector in (teacher, student)
        )
        tuned = FINE_TUNED if result.history else NOT_TUNED
        name = CONVERTED if self.domain == LATENT else tuned
        result.compared = {DECODED: result.teacher, name: converted}
        result.report = compare(
            *(result.teacher, result.compared, result.kept_aside, result.read, result.codec),
            history=result.history,
        )


def proposal_labels(
    student: CompressedMaskRCNN, teacher: CompressedMaskRCNN
) -> ProposalLabels | None:
    """Return the labels of a student that lacks anchors of its RGB model; None of another one."""
    levels, teacher_levels = (len(d.rpn.anchor_generator.sizes) for d in (student, teacher))
    if levels == teacher_levels:
        return None
    return ProposalLabels("network.rpn.head", student.rpn, teacher.roi_heads, _to_labels)


def _to_labels(detections: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {"boxes": detections["boxes"][detections["scores"] > LEAST_SCORE]}


def _preprocessing(config: DetectorConfig) -> Preprocessing:
    """Return the sizes of images; the detector normalizes them itself."""
    short_edge, max_size = evaluation_sizes(config)
    return Preprocessing((0,) * 3, (1,) * 3, short_edge, max_size, multiples=(32, 32))
