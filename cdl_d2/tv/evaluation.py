"""COCO average precision and rate of a detector."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask
from tqdm import tqdm

from cdl_d2.files import write_text
from cdl_d2.metrics.coco_precision import average_precision
from cdl_d2.tv.coco_items import CocoItems
from cdl_d2.tv.compressed_mask_rcnn import CompressedMaskRCNN


@torch.no_grad()
def evaluate(
    detector: CompressedMaskRCNN, dataset: CocoItems, output: Path
) -> dict[str, dict[str, float]]:
    """Average precision in percent, and the rate, as Detectron2 reports them.

    Images are looked at one by one, so that none is padded for another. Detections go to
    `output/coco_instances_results.json`.

    Returns:
        `bbox`, and `segm` where detector and annotations have masks, each with AP, AP50, AP75, APs,
        APm and APl; and for a coded domain `rate` with `bpp`, all bits over all pixels of the
        images as they were coded, and `kB`.
    """
    detector.eval()
    found, bits, pixels = [], 0.0, 0
    for index in tqdm(range(len(dataset)), desc="evaluate", unit="image"):
        item = dataset[index]
        result = detector([item])[0]
        found += _as_coco(result, item["image_id"], dataset.category_ids)
        if "bits" in result:
            bits += result["bits"]
            pixels += int(np.prod(result["image_size"]))
    output.mkdir(parents=True, exist_ok=True)
    write_text(output / "coco_instances_results.json", json.dumps(found))
    tasks = ("bbox", "segm") if detector.has_masks and dataset.has_masks else ("bbox",)
    results = {task: average_precision(dataset.coco, found, task) for task in tasks}
    if pixels:
        results["rate"] = {"bpp": bits / pixels, "kB": bits / 8000 / len(dataset)}
    return results


def _as_coco(
    result: dict[str, Any], image_id: int, category_ids: list[int]
) -> list[dict[str, Any]]:
    boxes = result["boxes"].cpu()
    boxes[:, 2:] -= boxes[:, :2]
    columns = (boxes.tolist(), result["labels"].tolist(), result["scores"].tolist())
    entries = [
        {"image_id": image_id, "category_id": category_ids[label - 1], "bbox": box, "score": score}
        for box, label, score in zip(*columns, strict=True)
    ]
    if "masks" in result:
        masks = (result["masks"][:, 0] > 0.5).cpu().numpy().astype(np.uint8)
        for entry, mask in zip(entries, masks, strict=True):
            rle = coco_mask.encode(np.asfortranarray(mask))
            entry["segmentation"] = {"size": rle["size"], "counts": rle["counts"].decode()}
    return entries
