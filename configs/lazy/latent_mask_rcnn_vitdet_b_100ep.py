# Mask R-CNN with a ViTDet-B backbone on latents, as in Detectron2's
# projects/ViTDet/configs/COCO/mask_rcnn_vitdet_b_100ep.py. Latent positions are the patches of 16
# pixels: a bridge of stride 16 replaces the patch embedding, and is fitted to the first batch.
from functools import partial

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L
from detectron2.modeling.backbone.vit import get_vit_lr_decay_rate
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import MultiStepParamScheduler

from cdl_d2.codec import Codec
from cdl_d2.d2 import CompressedRCNN
from cdl_d2.d2.detectron2_zoo import zoo_config
from cdl_d2.nn.input.coded_input import CodedInput

model = zoo_config("common/models/mask_rcnn_vitdet.py").model
model._target_ = CompressedRCNN
model.coded_input = L(CodedInput)(
    domain="latent",
    codec=L(Codec.load)(name="bmshj2018-hyperprior", quality=4),
    channel_order="${..input_format}",
)
model.bridge = {"decoder_stride": 16}

image_size = 1024
dataloader = zoo_config("common/data/coco.py").dataloader
dataloader.train.total_batch_size = 64
dataloader.train.mapper.update(image_format="RGB", recompute_boxes=True)
dataloader.train.mapper.augmentations = [
    L(T.RandomFlip)(horizontal=True),  # first
    L(T.ResizeScale)(
        min_scale=0.1, max_scale=2.0, target_height=image_size, target_width=image_size
    ),
    L(T.FixedSizeCrop)(crop_size=(image_size, image_size), pad=False),
]
dataloader.test.mapper.augmentations = [
    L(T.ResizeShortestEdge)(short_edge_length=image_size, max_size=image_size)
]

train = zoo_config("common/train.py").train
train.update(output_dir="./output/lazy_latent_mask_rcnn_vitdet_b_100ep", max_iter=184375)
train.amp.enabled = train.ddp.fp16_compression = True
train.init_checkpoint = (
    "detectron2://ImageNetPretrained/MAE/mae_pretrain_vit_base.pth?matching_heuristics=True"
)
lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(MultiStepParamScheduler)(
        values=[1.0, 0.1, 0.01], milestones=[163889, 177546], num_updates=train.max_iter
    ),
    warmup_length=250 / train.max_iter,
    warmup_factor=0.001,
)
optimizer = zoo_config("common/optim.py").AdamW
optimizer.params.lr_factor_func = partial(get_vit_lr_decay_rate, num_layers=12, lr_decay_rate=0.7)
optimizer.params.overrides = {"pos_embed": {"weight_decay": 0.0}}
