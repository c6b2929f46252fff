# The small student, see detection/small/latent_mask_rcnn_small.yaml: a quarter of the channels, the
# built-in tiny codec, data sets `train` and `val` of one class, and the small teacher. The learning
# rate is lower than there, since gradients are not clipped.
from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import MultiStepParamScheduler

from .latent_mask_rcnn_R50_FPN import dataloader, model, optimizer, train

dataloader.train.dataset.names = "train"
dataloader.test.dataset.names = "val"
dataloader.train.update(total_batch_size=2, num_workers=0)
dataloader.test.num_workers = 0
dataloader.train.mapper.augmentations[0].update(short_edge_length=(256,), max_size=384)
dataloader.test.mapper.augmentations[0].update(short_edge_length=256, max_size=384)
dataloader.train.mapper.instance_mask_format = "bitmask"
optimizer.lr = 0.005
train.update(output_dir="./output/lazy_latent_mask_rcnn_small", device="cpu", max_iter=1000)
train.checkpointer.period = train.eval_period = 1000
lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(MultiStepParamScheduler)(values=[1.0, 0.1, 0.01], milestones=[750, 930, 1000]),
    warmup_length=0.1,
    warmup_method="linear",
    warmup_factor=0.001,
)

model.coded_input.codec.update(name="tiny-bmshj2018-hyperprior", quality=2)
model.backbone.bottom_up.update(stem="conv1x1", width=0.25, norm="GN")
model.backbone.update(out_channels=64, norm="GN")
rpn = model.proposal_generator
rpn.head.in_channels = 64
rpn.anchor_generator.sizes = [[8], [16], [32], [64], [128]]
rpn.update(batch_size_per_image=128, pre_nms_topk=(400, 400), post_nms_topk=(200, 200))
heads = model.roi_heads
heads.update(num_classes=1, batch_size_per_image=64)
heads.box_head.update(
    input_shape=ShapeSpec(channels=64, height=7, width=7),
    conv_dims=[64],
    fc_dims=[256],
    conv_norm="GN",
)
heads.box_predictor.input_shape = ShapeSpec(channels=256)
heads.mask_head.update(
    input_shape=ShapeSpec(channels=64, height=14, width=14), conv_dims=[64, 64, 64], conv_norm="GN"
)
model.teacher.update(
    config_file="detection/small/pixel_mask_rcnn_small.yaml",
    weights="output/pixel_mask_rcnn_small/model_final.pth",
)
model.transfer.masks = "foreground"
