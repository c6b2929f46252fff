"""Annotation files, tables, cards and configs."""

from __future__ import annotations

import json
import tempfile
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import Any
from xml.etree import ElementTree

import numpy as np
import yaml
from PIL import Image

from cdl_d2 import model_zoo
from cdl_d2.codec import CodecIdentity
from cdl_d2.data import Variant
from cdl_d2.data.datasets.attributes import read_attributes
from cdl_d2.data.datasets.coco import read_coco
from cdl_d2.data.datasets.voc import read_voc_classes
from cdl_d2.metrics.coco_precision import CocoIndex, average_precision
from cdl_d2.model_zoo.card import Card, CardCodec, CardData, CardWeights, read_card
from cdl_d2.nn.selection.channel_ranking import ChannelRanking
from cdl_d2.packaged import CONFIGS
from cdl_d2.tv.coco_items import CocoItems
from cdl_d2.tv.detector_config import DetectorConfig
from tests.fuzz.mutations import mutate_bytes, mutate_values
from tests.voc import write_voc

SELECTED = CodecIdentity("tiny-bmshj2018-hyperprior", 2, "mse", "dequantized", "0123456789012345")
SIZES = {1: (20, 30), 2: (30, 20), 3: (16, 16)}  # of the images of the annotations
WORDS = (  # that an element may say
    *("", " ", "0", "-1", " 7 ", "7.5", "nan", "1e3", "0x10", "1_0", "\u0663", str(2**64)),
    *(9999 * "9", "../../x", "a/b", "cat", "cat\n", "{}", "\u00e9", "\u202e", 9999 * "x"),
)
BOMBS = (  # how a value is made of the one before
    "[*{0}, *{0}, *{0}, *{0}, *{0}, *{0}, *{0}, *{0}]",
    "{{1: *{0}, 2: *{0}, 3: *{0}, 4: *{0}, 5: *{0}, 6: *{0}, 7: *{0}, 8: *{0}}}",
    "{{<<: [*{0}, *{0}, *{0}, *{0}, *{0}, *{0}, *{0}, *{0}]}}",
)


def make_annotations() -> dict[str, bytes]:
    """COCO format, with polygons, both kinds of RLE, and a crowd."""
    from pycocotools import mask

    square = np.zeros((20, 30), np.uint8, order="F")
    square[3:9, 4:15] = 1
    encoded = mask.encode(square)
    shapes = [
        (1, [[4, 3, 15, 3, 15, 9, 4, 9], [1, 1, 3, 1, 2.5, 3]]),
        (1, {"size": [20, 30], "counts": encoded["counts"].decode()}),
        (2, {"size": [30, 20], "counts": [100, 50, 450]}),
        (2, [[0, 0, 19.5, 0, 19, 29, 1, 28]]),
    ]
    annotations = [
        {
            "id": number,
            "image_id": image,
            "category_id": 1 + number % 2,
            "bbox": [2, 3, 12.5, 9],
            "area": 50,
            "iscrowd": int(number == 2),
            "segmentation": shape,
        }
        for number, (image, shape) in enumerate(shapes)
    ]
    images = [
        {"id": i, "file_name": f"{i}.png", "height": h, "width": w} for i, (h, w) in SIZES.items()
    ]
    categories = [{"id": 1, "name": "a"}, {"id": 2, "name": "b", "supercategory": "c"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    return {"annotations.json": json.dumps(content | {"info": {"year": 2026}}).encode()}


def read_annotations(name: str, content: bytes, folder: Path) -> Any:
    """Return training samples of both backends, and the AP of a detection."""
    path = folder / name
    path.write_bytes(content)
    for image, (height, width) in SIZES.items():
        Image.new("RGB", (width, height)).save(folder / f"{image}.png")
    items = CocoItems(path, folder, (Variant(),), training=True)
    samples = [items[index] for index in range(len(items))]
    first = {"image_id": 1, "category_id": 1, "bbox": [2, 3, 12.5, 9], "score": 0.5}
    precision = average_precision(CocoIndex(read_coco(path)), [first], "bbox")
    if not find_spec("detectron2"):
        return samples, precision
    from detectron2.data import DatasetCatalog

    from cdl_d2.d2 import register_dataset
    from cdl_d2.d2.data.image_mapper import ImageMapper

    mapper = ImageMapper(
        is_train=True, augmentations=[], image_format="RGB", use_instance_mask=True,
        instance_mask_format="bitmask",
    )  # fmt: skip
    dataset = f"{folder / name} {len(DatasetCatalog)}"
    register_dataset(dataset, str(path), str(folder))
    mapped = [mapper(record) for record in DatasetCatalog.get(dataset)]
    instances = [vars(sample["instances"])["_fields"] for sample in mapped]
    tensors = [{k: getattr(v, "tensor", v) for k, v in i.items()} for i in instances]
    return samples, precision, tensors


def make_tables() -> dict[str, bytes]:
    """Return attributes of images, in both formats."""
    table = "file_name,smiling,young\n1.png,0,1\nmore/2.png,1,0\n"
    celeba = "2\nSmiling Young\n1.jpg -1 1\n2.jpg  1 1\n"
    return {"table.csv": table.encode(), "celeba.txt": celeba.encode()}


def read_table(name: str, content: bytes, folder: Path) -> Any:
    """Return names and values of a table."""
    (folder / name).write_bytes(content)
    return read_attributes(folder / name)


def make_selections() -> dict[str, bytes]:
    """The file of `cdl latents select --output`, of a codec of eight channels."""
    content = {"channels": [3, 1, 0, 2, 7, 6, 5, 4], "by": "gate", "codec": vars(SELECTED)}
    return {"selection.json": json.dumps(content).encode()}


def read_selection(name: str, content: bytes, folder: Path) -> Any:
    """The first channels of a selection."""
    (folder / name).write_bytes(content)
    return ChannelRanking.load(folder / name, SELECTED).top_channels(4)


def make_voc_annotations() -> dict[str, bytes]:
    """Return the annotation of an image with two objects, in the layout of VOC."""
    with tempfile.TemporaryDirectory() as folder:
        write_voc(Path(folder), [["dog", "cat"]])
        return {"000000.xml": (Path(folder) / "Annotations/000000.xml").read_bytes()}


def mutate_xml(rng: Random, content: bytes) -> bytes:
    """Corrupt XML as text, or change, double or remove elements."""
    if rng.random() < 0.3:
        return mutate_bytes(rng, content)
    root = ElementTree.fromstring(content)
    for _ in range(rng.randint(1, 3)):
        parent = rng.choice([element for element in root.iter() if len(element)])
        child = rng.choice(list(parent))
        chance = rng.random()
        if chance < 0.15 and len(root) > 1:
            parent.remove(child)
        elif chance < 0.3:
            parent.append(child)
        else:
            rng.choice(list(child.iter())).text = rng.choice(WORDS)
        if not len(root):
            break
    return ElementTree.tostring(root)


def read_voc_annotation(name: str, content: bytes, folder: Path) -> Any:
    """Classes, and what Detectron2 reads to train and to evaluate."""
    voc = folder / "voc"
    write_voc(voc, [["dog", "cat"], ["cat"]])
    (voc / "Annotations" / name).write_bytes(content)
    classes = read_voc_classes(voc, "train")
    if not find_spec("detectron2"):
        return classes
    from detectron2.data.datasets.pascal_voc import load_voc_instances
    from detectron2.evaluation.pascal_voc_evaluation import parse_rec

    records = load_voc_instances(str(voc), "train", classes)
    for record in records:
        record["file_name"] = Path(record["file_name"]).name
    return classes, records, parse_rec.__wrapped__(str(voc / "Annotations" / name))


def make_cards() -> dict[str, bytes]:
    """Return a card of each backend."""
    values = {
        "name": "a-model",
        "classes": ("nucleus", "other"),
        "codec": CardCodec("tiny-bmshj2018-hyperprior", 2, "mse", "0123456789012345"),
        "data": CardData("nuclei", "CC0", 300),
        "command": "cdl train one\ncdl train two\n",
        "metrics": {"box AP": 38.3, "bits per pixel": 0.251},
        "seed": 1,
        "date": date(2026, 11, 24),
        "weights": CardWeights("https://127.0.0.1:9/a.safetensors", 9, "0" * 64),
        "task": "detection",
    }
    changes = ("MODEL.ROI_HEADS.NUM_CLASSES", 2, "SOLVER.STEPS", [3, 4])
    config = DetectorConfig(values["classes"], "image")
    architecture = vars(config.architecture) | {"anchor_sizes": [32, 64, 128, 256, 512]}
    config_values = vars(config) | {"classes": [*config.classes], "architecture": architecture}
    config_name = "detection/small/bridge_mask_rcnn_small.yaml"
    cards = {
        "detectron2.yaml": Card(
            **values, backend="detectron2", config=config_name, overrides=changes
        ),
        "torchvision.yaml": Card(**values, backend="torchvision", config=config_values),
    }
    return {name: card.to_yaml().encode() for name, card in cards.items()}


def read_card_file(name: str, content: bytes, folder: Path) -> Any:
    """A card and its model's config."""
    (folder / name).write_bytes(content)
    card = read_card(folder / name)
    if card.backend == "detectron2" and not find_spec("detectron2"):
        return card
    config = model_zoo.get_config(card)
    return card, config if card.backend == "torchvision" else config.dump()


def make_configs() -> dict[str, bytes]:
    """A config of the package, one based on it, and a whole one as a training writes it."""
    from cdl_d2.d2.config_files import read_config

    leaf = CONFIGS / "detection" / "latent_mask_rcnn_R50_FPN.yaml"
    based = f"_BASE_: {leaf}\nSOLVER: {{STEPS: [3, 4], MAX_ITER: 5}}\nMODEL:\n  MASK_ON: false\n"
    whole = read_config(leaf).dump()
    return {"based.yaml": based.encode(), "config.yaml": whole.encode()}


def read_config_file(name: str, content: bytes, folder: Path) -> Any:
    """Return a config as text."""
    from cdl_d2.d2.config_files import read_config

    (folder / name).write_bytes(content)
    return read_config(folder / name).dump()


def mutate_yaml(rng: Random, content: bytes) -> bytes:
    """Corrupt YAML as text or as values, or return nested aliases."""
    chance = rng.random()
    if chance < 0.05:
        return _bomb(rng) + content
    if chance < 0.5:
        return mutate_bytes(rng, content)
    while True:
        try:
            return yaml.safe_dump(mutate_values(rng, yaml.safe_load(content))).encode()
        except (yaml.YAMLError, ValueError, RecursionError):  # what YAML does not hold
            continue


def _bomb(rng: Random) -> bytes:
    """Return a few lines of YAML with 8^1 to 8^12 values after expanding aliases."""
    way, depth = rng.choice(BOMBS), rng.randint(1, 12)
    lines = [f"x{i + 1}: &x{i + 1} {way.format(f'x{i}')}" for i in range(depth)]
    return "\n".join(["x0: &x0 {a: 1}", *lines, ""]).encode()
