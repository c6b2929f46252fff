"""COCO average precision and rate of a detector."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tqdm import tqdm

from cdl_d2.files import write_text
from cdl_d2.metrics.coco_precision import average_precision
from cdl_d2.metrics.coco_results import detections_to_coco
from cdl_d2.metrics.rate import RateTotals
from cdl_d2.tv.coco_items import CocoItems
from cdl_d2.tv.compressed_mask_rcnn import CompressedMaskRCNN, read_detections


@torch.no_grad()
def evaluate(
    detector: CompressedMaskRCNN, dataset: CocoItems, output: Path
) -> dict[str, dict[str, float]]:
    """Return the average precision in percent, and the rate of a detector.

    Images are evaluated one by one, so that none is padded to the size of another. Detections are
    written to `output/coco_instances_results.json`.

    Returns:
        `bbox`, and `segm` where detector and annotations have masks, each with AP, AP50, AP75, APs,
        APm and APl; and in a coded domain `rate` with `bpp` and `kB`, those of RateTotals.
    """
    detector.eval()
    records, rate = [], RateTotals()
    for index in tqdm(range(len(dataset)), desc="evaluate", unit="image"):
        sample = dataset[index]
        result = detector([sample])[0]
        fields = read_detections(result)
        detections = [fields[name] for name in ("boxes", "labels", "scores")]
        ids = sample["image_id"], dataset.category_ids
        records += detections_to_coco(*detections, *ids, fields.get("masks"))
        if "bits" in result:
            height, width = result["image_size"]
            rate.add(result["bits"], height * width)
    output.mkdir(parents=True, exist_ok=True)
    write_text(output / "coco_instances_results.json", json.dumps(records))
    tasks = ("bbox", "segm") if detector.has_masks and dataset.has_masks else ("bbox",)
    results = {task: average_precision(dataset.coco, records, task) for task in tasks}
    if rate.images:
        results["rate"] = rate.results()
    return results
