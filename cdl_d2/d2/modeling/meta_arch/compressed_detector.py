"""Base of all detectors on codec output."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.structures import ImageList

from cdl_d2.d2.modeling.mask_losses import HAS_MASK, without_unmasked
from cdl_d2.d2.modeling.meta_arch.compressed_model import CompressedModel
from cdl_d2.d2.modeling.selected_channels import SelectedChannels
from cdl_d2.errors import CdlError
from cdl_d2.nn.bridge.input_adapter import announce_images
from cdl_d2.nn.bridge.linear_bridge import bridge_first_convolution
from cdl_d2.nn.input.coded_input import CodedInput
from cdl_d2.nn.input.sample import rate_fields


class CompressedDetector(CompressedModel):
    """Mixin for meta-architectures of Detectron2 that batch images in `preprocess_image`.

    List it first, before GeneralizedRCNN, PanopticFPN, RetinaNet or one of your own:

    ```python
    @META_ARCH_REGISTRY.register()
    class CompressedMine(CompressedDetector, Mine): ...
    ```

    Boxes, masks and `ImageList.image_sizes` are in pixels in every domain.

    Args:
        coded_input: domain, codec and channel order.
        selection: selection of a latent's channels; None for all.
        bridge: arguments `width` and `decoder_stride` of bridge_first_convolution, to replace the
            backbone's first convolution; None for a backbone that reads the input as it is. Unless
            it is fitted before, the bridge is fitted to the first batch of a training.
        kwargs: arguments of Detectron2's meta-architecture.

    Raises:
        CdlError: for a meta-architecture without `preprocess_image`; for a bridge that does not fit
            the backbone, or whose domain is not `latent`.
    """

    @configurable
    def __init__(
        self,
        *,
        coded_input: CodedInput,
        selection: SelectedChannels | None = None,
        bridge: Mapping[str, Any] | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if not hasattr(super(), "preprocess_image"):
            raise CdlError(
                f"{type(self).__name__} needs a base class with `preprocess_image`, which batches "
                "latents instead of images: override `forward`, as CompressedSegmentor does"
            )
        self._fits_bridge = bridge is not None
        if bridge is not None:
            if coded_input.domain != "latent":
                raise CdlError(f"a bridge reads latents, not domain {coded_input.domain!r}")
            bridge_first_convolution(self.backbone, coded_input.codec, **bridge)
        self.set_input(coded_input, selection)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return {**super().from_config(cfg), **cls.input_from_config(cfg)}

    def forward(self, batched_inputs: list[dict[str, Any]]):
        """Return losses in training, otherwise detections.

        Args:
            batched_inputs: samples with
                image: 3 x H x W in 0..255, channels in the order of INPUT.FORMAT; or, as
                CodedInput.encode adds them, latent: M x ceil(H/16) x ceil(W/16), perhaps with the
                margin, and image_size: (H, W), or reconstruction: 3 x H x W;
                instances: in training, Instances with gt_boxes, gt_classes and the targets of the
                heads (gt_masks, gt_keypoints; gt_has_mask where an object has no mask);
                sem_seg: in training of PanopticFPN, H x W labels;
                height, width: optional size of the original image, to which results are scaled.

        Returns:
            in training the losses of Detectron2's detector and, with a gate, `loss_rate`; otherwise
            a dict per sample: Detectron2's outputs (`instances`; of PanopticFPN also `sem_seg` and
            `panoptic_seg`), and of a coded image `bits`, `image_size` and, with a selection,
            `channels`.
        """
        if not self.training:
            return self.inference(batched_inputs)
        if self._fits_bridge:
            self._fits_bridge = False
            with torch.autocast(self.device.type, enabled=False):
                self.fit_bridge(batched_inputs, len(batched_inputs))
        samples = self.select_channels(self.encode(batched_inputs))
        instances = [sample["instances"] for sample in samples if "instances" in sample]
        some_unmasked = any(objects.has(HAS_MASK) for objects in instances)
        with without_unmasked(self) if some_unmasked else nullcontext():
            losses = super().forward(samples)
        return losses | self.gate_losses(samples)

    def inference(self, batched_inputs: list[dict[str, Any]], *args, **kwargs):
        """Return the detections of `forward` in evaluation, by Detectron2's `inference`.

        Args:
            batched_inputs: samples, see `forward`.
            args: arguments of Detectron2's `inference`; a list has an element per sample. Those of
                R-CNNs are `detected_instances`, Instances with pred_boxes and pred_classes for
                which masks are predicted, and `do_postprocess`, which scales results to `height`
                and `width`.
            kwargs: the same by name.

        Returns:
            the results of Detectron2's `inference`. Without post-processing, boxes are in pixels
            of the model's input.
        """
        samples = self.select_channels(self.encode(batched_inputs))
        detect = getattr(super(), "inference", super().forward)
        results = self._detect_by_size(samples, detect, args, kwargs)
        if isinstance(results, list) and all(isinstance(result, dict) for result in results):
            pairs = zip(results, samples, strict=True)
            return [result | rate_fields(sample) for result, sample in pairs]
        return results

    def visualize_training(self, batched_inputs: list[dict[str, Any]], *args: Any) -> None:
        """Draw proposals or detections, on the reconstruction where a sample has no `image`."""
        samples = [s | {"image": self.coded_input.picture(s)} for s in batched_inputs]
        super().visualize_training(samples, *args)

    @property
    def padding_multiple(self) -> int:
        """Number of pixels of which both sides of a batch are multiples."""
        return max(self.backbone.size_divisibility, self.coded_input.stride)

    def preprocess_image(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        """Batch the model's inputs; latents are padded with zeros to whole strides.

        Latents of a model that reads the margin have it below and on the right, in addition.

        A backbone with a `square_size` (ViTDet) gets squares of this side; larger images stay.
        """
        coded_input, multiple = self.coded_input, self.padding_multiple
        if coded_input.has_pixels:
            images = [{"image": sample[coded_input.domain]} for sample in batched_inputs]
            return super().preprocess_image(images)
        square = self.backbone.padding_constraints.get("square_size", 0)
        latents, sizes = coded_input.batch(
            batched_inputs, self.device, multiple, lambda pixels: pixels, square
        )
        if coded_input.margin:
            announce_images(self, [sample["latent"] for sample in batched_inputs], sizes)
        return ImageList(latents, sizes)

    def _detect_by_size(
        self,
        samples: list[dict[str, Any]],
        detect: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Call `detect` with samples of one padded size at a time.

        The result for an image then does not depend on the other images of the batch.
        """
        multiple = self.padding_multiple
        groups: dict[tuple[int, ...], list[int]] = {}
        for index, sample in enumerate(samples):
            size = tuple(-(-side // multiple) for side in self.coded_input.image_size(sample))
            groups.setdefault(size, []).append(index)
        results: list[Any] = [None] * len(samples)
        is_tuple = False  # of kinds of results, such as instances and label maps
        for indices in groups.values():
            group_args = [_take(value, indices) for value in (samples, *args)]
            group_kwargs = {name: _take(value, indices) for name, value in kwargs.items()}
            outputs = detect(*group_args, **group_kwargs)
            is_tuple = isinstance(outputs, tuple)
            rows = zip(*outputs, strict=True) if is_tuple else outputs
            for index, result in zip(indices, rows, strict=True):
                results[index] = result
        return tuple(map(list, zip(*results, strict=True))) if is_tuple else results


def _take(value: Any, indices: list[int]) -> Any:
    """Return the elements of a list with an element per sample; other values unchanged."""
    return [value[index] for index in indices] if isinstance(value, list) else value
