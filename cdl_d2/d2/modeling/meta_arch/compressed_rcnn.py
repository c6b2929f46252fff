"""R-CNN detectors whose input is a codec's latent, a decoded image, or the original image."""

from __future__ import annotations

from typing import Any

from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN
from detectron2.structures import ImageList, Instances

from cdl_d2.codec import STRIDE, Codec
from cdl_d2.d2.modeling.meta_arch.compressed_model import CompressedModel
from cdl_d2.d2.modeling.selected_channels import SelectedChannels
from cdl_d2.nn.coded_input import item_image_size, reported


@META_ARCH_REGISTRY.register()
class CompressedRCNN(CompressedModel, GeneralizedRCNN):
    """Detectron2's GeneralizedRCNN (Faster or Mask R-CNN) in the compressed domain.

    Boxes, masks and `ImageList.image_sizes` are in pixels in every domain. A batch item needs
    `image` only; `encode_item` says what else it may carry.
    """

    @configurable
    def __init__(
        self,
        *,
        codec: Codec | None,
        domain: str,
        selection: SelectedChannels | None = None,
        **kwargs,
    ):
        """
        Args:
            codec, domain, selection: see CompressedModel.
            kwargs: those of GeneralizedRCNN.
        """
        super().__init__(**kwargs)
        self.enter_domain(codec, domain, self.input_format, selection)

    @classmethod
    def from_config(cls, cfg):
        return {**super().from_config(cfg), **cls.domain_of(cfg)}

    def forward(self, batched_inputs: list[dict[str, Any]]):
        """As GeneralizedRCNN.forward; in training with `loss_rate` of a gate, in evaluation with
        `bits` and `image_size` of coded images."""
        if self.training:
            items = self.select(self.encode(batched_inputs))
            return super().forward(items) | self.selection_losses(items)
        return self.inference(batched_inputs)

    def inference(
        self,
        batched_inputs: list[dict[str, Any]],
        detected_instances: list[Instances] | None = None,
        do_postprocess: bool = True,
    ):
        """As GeneralizedRCNN.inference.

        Images are batched only with images of the same padded size, so that what is found in an
        image does not depend on its batch mates.
        """
        items = self.select(self.encode(batched_inputs))
        results: list[Any] = [None] * len(items)
        for members in _groups_of_equal_size([self._padded_size(item) for item in items]):
            known = detected_instances and [detected_instances[i] for i in members]
            group = super().inference([items[i] for i in members], known, do_postprocess)
            for i, result in zip(members, group, strict=True):
                results[i] = result
        if do_postprocess:
            for result, item in zip(results, items, strict=True):
                result.update(reported(item))
        return results

    def preprocess_image(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        """Batch what the domain looks at; latents are padded with zeros to whole strides."""
        if self.domain != "latent":
            key = "reconstruction" if self.domain == "reconstruction" else "image"
            return super().preprocess_image([{"image": item[key]} for item in batched_inputs])
        latents = [item["latent"].to(self.device) for item in batched_inputs]
        image_sizes = [item_image_size(item) for item in batched_inputs]
        batch = ImageList.from_tensors(latents, self.backbone.size_divisibility // STRIDE)
        return ImageList(batch.tensor, image_sizes)

    def _padded_size(self, item: dict[str, Any]) -> tuple[int, int]:
        multiple = self.backbone.size_divisibility
        height, width = item_image_size(item)
        return -(-height // multiple), -(-width // multiple)


def _groups_of_equal_size(sizes: list[tuple[int, int]]) -> list[list[int]]:
    groups: dict[tuple[int, int], list[int]] = {}
    for index, size in enumerate(sizes):
        groups.setdefault(size, []).append(index)
    return list(groups.values())
