"""What the configs of the papers' experiments are, beyond that they can be read."""

import pytest
import torch

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from torchvision.ops import FrozenBatchNorm2d

from cdl_d2.bench.counts import count_multiply_adds, usual_size
from cdl_d2.d2 import SafeCheckpointer, Trainer, build_codec
from cdl_d2.d2.config_files import read_config
from cdl_d2.d2.data.class_datasets import BUILTIN_PATHS
from cdl_d2.d2.modeling.classifier_networks import build_classifier_network
from cdl_d2.d2.modeling.meta_arch.joint_codec import build_joint_training
from tests.d2.conftest import CONFIGS, SMALL
from tests.d2.modeling.test_classifier import make_items, tiny_cfg, tiny_model

STUDY = [f"cresnet39_{name}.yaml" for name in ("minc2500", "resisc45", "rsscn7")]
UNTRAINED = ["MODEL.CODEC.WEIGHTS", "untrained", "MODEL.CLASSIFIER.INIT", ""]
NARROW = ["MODEL.LATENT_RESNET.WIDTH", 1 / 16]
STUDENT, TEACHER, DECODER = "student_network", "teacher_network", "codec_decoder"


def classifier_cfg(name, *options):
    return read_config(f"classification/{name}", [*UNTRAINED, *options])


@pytest.mark.parametrize(
    ("name", "giga"),
    [
        ("latent_resnet50", {STUDENT: 5.285, TEACHER: 5.37, DECODER: 2.76}),
        ("latent_resnet50_stem1x1", {STUDENT: 4.905, DECODER: 2.76}),
        ("reconstruction_resnet50_mbt2018", {STUDENT: 5.37, DECODER: 5.98}),
    ],
)
def test_classifiers_have_the_multiply_adds_of_tables_1_2_5_and_6(name, giga):
    cfg = classifier_cfg(f"{name}.yaml")
    assert usual_size(cfg) == (256, 256)
    counts = count_multiply_adds(cfg, (128, 128))  # a quarter, but for the last layer
    for part, expected in giga.items():
        assert 4 * counts[part] / 1e9 == pytest.approx(expected, rel=0.005), part


def test_the_networks_of_figure_5_are_counted_on_the_cells_that_they_see():
    cfg = classifier_cfg("cresnet51.yaml")
    count = count_multiply_adds(cfg, (64, 64))[STUDENT]
    resnet50 = 4.11e9  # at 224 pixels, which it is made as costly as
    assert count == pytest.approx(resnet50, rel=0.1)
    narrow = classifier_cfg("latent_resnet50_no_stem.yaml", *NARROW)
    network = build_classifier_network(narrow)
    trunk = network.trunk
    blocks = [len(s) for s in (trunk.conv4_1, trunk.conv4_2, trunk.conv4_3, trunk.conv5)]
    assert sum(blocks[:3]) == 6 and blocks[3] == 3
    assert network(torch.zeros(1, 192, 14, 14)).shape == (1, 1000)


@pytest.mark.parametrize(("quality", "channels"), [(1, 192), (4, 192), (8, 320)])
def test_cresnet39_reads_the_channels_of_each_quality(quality, channels):
    cfg = classifier_cfg(STUDY[0], "MODEL.CODEC.QUALITY", quality, *NARROW)
    network = build_classifier_network(cfg)
    assert network.trunk.input.channels == channels and network.fc.out_features == 23
    latent = torch.rand(1, channels, 28, 28)
    assert network.eval()(latent, latent).shape == (1, 23)


@pytest.mark.parametrize("name", STUDY)
def test_the_data_sets_of_the_study_are_known(name):
    cfg = classifier_cfg(name)
    assert {*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST} <= BUILTIN_PATHS.keys()
    assert cfg.MODEL.CODEC.METRIC == "ms-ssim" and cfg.INPUT.IMAGE_SIZE == 0


@pytest.mark.parametrize(("name", "whole"), [("minc2500", False), ("minc2500_all_losses", True)])
def test_table_4_tunes_the_encoder_alone_by_the_task_alone(name, whole):
    cfg = classifier_cfg(f"joint_cresnet39_{name}.yaml")
    joint_training = build_joint_training(cfg, build_codec(cfg))
    network = joint_training.trained_codec.network
    learns = {n.partition(".")[0] for n, p in network.named_parameters() if p.requires_grad}
    assert joint_training.train_task and ("g_s" in learns) == ("h_a" in learns) == whole
    assert "g_a" in learns
    images = torch.rand(1, 3, 192, 192)
    coded = joint_training.trained_codec(images)
    losses, _ = joint_training.objective(images, coded, 0)
    assert all((float(loss.detach()) > 0) == whole for loss in losses.values())


def test_a_detector_starts_from_a_latent_classifier_with_frozen_normalization(tmp_path):
    classifier = tiny_model(
        tiny_cfg("latent_resnet", "MODEL.META_ARCHITECTURE", "CompressedClassifier")
    )
    classifier.train()(make_items())  # moves the statistics
    SafeCheckpointer(classifier, str(tmp_path)).save("classifier")
    leaf = CONFIGS / "detection" / "small" / "latent_mask_rcnn_small_pretrained.yaml"
    start = ["MODEL.LATENT_RESNET.INIT", str(tmp_path / "classifier.pth")]
    frozen = ["MODEL.LATENT_RESNET.NORM", read_config(leaf).MODEL.LATENT_RESNET.NORM]
    cfg = read_config(leaf, [*SMALL, *start, *frozen])
    model = Trainer.build_model(cfg)
    trunk = model.backbone.bottom_up.pyramid.trunk
    state = classifier.network.trunk.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in trunk.state_dict().items())
    assert any(isinstance(module, FrozenBatchNorm2d) for module in trunk.modules())
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in trunk.modules())
    standard = read_config("detection/latent_mask_rcnn_R50_FPN_pretrained.yaml")
    assert frozen[1] == standard.MODEL.LATENT_RESNET.NORM


def test_students_on_latents_and_decoded_images_begin_alike():
    latent = read_config("detection/latent_mask_rcnn_R50_FPN.yaml").MODEL
    decoded = read_config("detection/reconstruction_mask_rcnn_R50_FPN_scratch.yaml").MODEL
    assert latent.LATENT_RESNET.INIT == latent.WEIGHTS == decoded.WEIGHTS == ""
    assert latent.LATENT_RESNET.NORM == decoded.RESNETS.NORM == "BN"
    assert latent.BACKBONE.FREEZE_AT == decoded.BACKBONE.FREEZE_AT == 0
