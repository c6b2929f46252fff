"""Small detectors of Detectron2's LazyConfigs, and their weights."""

from pathlib import Path

import torch

SHRINK = """
from detectron2.config import LazyConfig
from detectron2.layers import ShapeSpec

from cdl_d2.d2.config_files import find_config
from cdl_d2.d2.detectron2_zoo import zoo_config

config = LazyConfig.load(str(find_config("{name}")))
model, dataloader = config.model, zoo_config("common/data/coco.py").dataloader
dataloader.test.mapper.augmentations[0].update(short_edge_length=96, max_size=128)
train = dict(output_dir="./output", init_checkpoint="", device="cpu")
model.backbone.out_channels = 16
{change}
"""
RCNN = """
model.proposal_generator.head.in_channels = 16
model.proposal_generator.update(pre_nms_topk=(50, 50), post_nms_topk=(20, 20))
heads = model.roi_heads
heads.update(num_classes=2, batch_size_per_image=16)
for head in heads.get("box_heads") or [heads.box_head]:
    head.update(conv_dims=[8], fc_dims=[16])
    head.input_shape = ShapeSpec(channels=16, height=7, width=7)
for predictor in heads.get("box_predictors") or [heads.box_predictor]:
    predictor.update(input_shape=ShapeSpec(channels=16), test_score_thresh=0.0)
heads.mask_head.update(conv_dims=[8], input_shape=ShapeSpec(channels=16, height=14, width=14))
"""
REGNET = """
small = dict(stem_width=8, depth=8, w_a=16.0, w_0=16, w_m=2.0, group_width=8, norm="BN")
regnet = zoo_config("new_baselines/mask_rcnn_regnetx_4gf_dds_FPN_100ep_LSJ.py")
model.backbone.bottom_up = regnet.model.backbone.bottom_up
model.backbone.bottom_up.update(small)
"""
DENSE = """
model.backbone.bottom_up.out_features = model.backbone.in_features = ["s2", "s3", "s4"]
model.backbone.top_block.update(in_channels=16, in_feature="p5")
model.num_classes, model.test_score_thresh = 2, 0.0
model.head.update(conv_dims=[8], input_shape=[ShapeSpec(channels=16)] * 5, norm="")
"""
VIT = """
small = dict(img_size=128, embed_dim=32, depth=2, num_heads=2, window_size=3)
model.backbone.net.update(window_block_indexes=[0], **small)
model.backbone.square_pad = 128
"""
LATENT_VIT = """
model.coded_input.codec.update(name="tiny-bmshj2018-hyperprior", quality=2)
"""
DETECTORS = {  # config of the zoo, and its changes
    "regnet": ("new_baselines/mask_rcnn_regnetx_4gf_dds_FPN_100ep_LSJ.py", REGNET + RCNN),
    "cascade": ("common/models/cascade_rcnn.py", REGNET + RCNN),
    "retinanet": ("COCO-Detection/retinanet_R_50_FPN_1x.py", REGNET + DENSE),
    "fcos": ("COCO-Detection/fcos_R_50_FPN_1x.py", REGNET + DENSE),
    "vitdet": ("common/models/mask_rcnn_vitdet.py", VIT + RCNN),
}
LATENT_VITDET = ("lazy/latent_mask_rcnn_vitdet_b_100ep.py", VIT + RCNN + LATENT_VIT)


def write_detector(kind: str, folder: Path, more: str = "") -> Path:
    """Write a LazyConfig and, beside it, random weights; return the config's path."""
    from cdl_d2.d2.lazy_config import read_lazy_config

    name, change = (DETECTORS | {"latent_vitdet": LATENT_VITDET})[kind]
    path = folder / f"{kind}.py"
    path.write_text(SHRINK.format(name=name, change=change + more), encoding="utf-8")
    torch.manual_seed(0)
    state = read_lazy_config(path).build().state_dict()
    torch.save({"model": state}, folder / "model_final.pth")
    return path
