# The main model as a LazyConfig, as in detection/latent_mask_rcnn_R50_FPN.yaml: for Detectron2's
# tools/lazyconfig_train_net.py, and distilled from the trained model of its model zoo.
from detectron2.config import LazyCall as L

from cdl_d2.codec import Codec
from cdl_d2.d2 import TransferRCNN
from cdl_d2.d2.detectron2_zoo import zoo_config
from cdl_d2.d2.modeling.backbone.latent_resnet import latent_resnet_backbone
from cdl_d2.d2.modeling.teacher import teacher_of
from cdl_d2.nn.input.coded_input import CodedInput
from cdl_d2.transfer import DetectorTransfer

dataloader = zoo_config("common/data/coco.py").dataloader
lr_multiplier = zoo_config("common/coco_schedule.py").lr_multiplier_3x
optimizer = zoo_config("common/optim.py").SGD
train = zoo_config("common/train.py").train
train.update(output_dir="./output/lazy_latent_mask_rcnn_R50_FPN", max_iter=270000)

model = zoo_config("common/models/mask_rcnn_fpn.py").model
model._target_ = TransferRCNN
model.coded_input = L(CodedInput)(
    domain="latent",
    codec=L(Codec.load)(name="bmshj2018-hyperprior", quality=4),
    channel_order="${..input_format}",
)
model.backbone.bottom_up = L(latent_resnet_backbone)(codec="${...coded_input.codec}")
model.backbone.in_features = ["res2", "res3", "res4", "res5"]
model.teacher = L(teacher_of)(
    config_file="COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml",
    weights="detectron2://COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x/137849600/"
    "model_final_f10217.pkl",
)
model.transfer = L(DetectorTransfer)(weight=1.0)
