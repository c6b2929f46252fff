"""cdl convert: a pixel detector becomes one that reads latents, without labels."""

import shutil

import pytest
import torch

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from torchvision.io import write_png

from cdl_d2.codec import Bitstream, Codec
from cdl_d2.codec.io.image_files import read_image
from cdl_d2.d2 import SafeCheckpointer
from cdl_d2.d2.config_files import read_config
from cdl_d2.prediction.bitstreams import read_stream
from cdl_d2.prediction.loading import load_model
from tests.commands import output_of, refused, run
from tests.d2.conftest import small_cfg, small_model

CODEC = "--codec", "tiny-bmshj2018-hyperprior", "--quality", 2


@pytest.fixture
def teacher(tmp_path):
    """The output folder of a small pixel detector."""
    return save_run(small_cfg("pixel"), tmp_path / "teacher")


def predict_bitstream(run, codec, image):
    model = load_model(run, "cpu").network
    stream = codec.compress(read_image(image).float() / 255)
    return model([read_stream(model, Bitstream.from_bytes(stream.to_bytes()))])[0]


def test_a_converted_detector_runs_without_training_and_without_its_teachers_files(
    teacher, coco_dataset, codec, tmp_path
):
    images, out = coco_dataset[1], tmp_path / "converted"
    arguments = images, *CODEC, "--output", out
    before = torch.load(teacher / "model_final.pth", weights_only=True)["model"]
    output_of("convert", teacher, *arguments)
    assert str(out) in refused("convert", teacher, *arguments)  # nothing is written over
    shutil.rmtree(teacher)
    after = torch.load(out / "model_final.pth", weights_only=True)["model"]
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert predict_bitstream(out, codec, images / "000.png")["instances"].image_size == (96, 128)


RETINANET = [
    *("MODEL.META_ARCHITECTURE", "RetinaNet", "MODEL.RETINANET.NUM_CLASSES", 2),
    *("MODEL.BACKBONE.NAME", "build_retinanet_resnet_fpn_backbone"),
    *("MODEL.RESNETS.OUT_FEATURES", ["res3", "res4", "res5"]),
    *("MODEL.FPN.IN_FEATURES", ["res3", "res4", "res5"]),
    *("MODEL.RETINANET.SCORE_THRESH_TEST", 0.0),
]
CASCADE = [
    *("MODEL.ROI_HEADS.NAME", "CascadeROIHeads", "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True),
]


C4 = [  # of a backbone that says nothing of how it wants to be padded
    *("MODEL.BACKBONE.NAME", "build_resnet_backbone", "MODEL.MASK_ON", False),
    *("MODEL.RESNETS.OUT_FEATURES", ["res4"], "MODEL.RPN.IN_FEATURES", ["res4"]),
    *("MODEL.ROI_HEADS.NAME", "Res5ROIHeads", "MODEL.ROI_HEADS.IN_FEATURES", ["res4"]),
    *("MODEL.ANCHOR_GENERATOR.SIZES", [[32, 64]]),
]


def test_a_detector_is_trained_without_labels_after_the_fit(teacher, codec, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    images = tmp_path / "images"
    images.mkdir()
    for number in range(16):
        image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
        write_png(image, str(images / f"{number:02}.png"))
    words = "convert", teacher, images, *CODEC[:2], "--output", tmp_path, "--iterations", 1
    text = output_of(*words, "--qualities", 0, 2, "--report")
    assert "validation images" in text
    assert sum(line.startswith("| ") for line in text.splitlines()) == 2 + 2 * 3
    assert "<img" in (tmp_path / "report.html").read_text(encoding="utf-8")
    out = tmp_path / "quality-2"
    after = torch.load(out / "model_final.pth", weights_only=True)["model"]
    assert predict_bitstream(out, codec, images / "00.png")["instances"].image_size == (64, 64)
    assert not (out / "distillation.pth").exists() and all(
        v.isfinite().all() for v in after.values()
    )


def save_run(cfg, folder):
    folder.mkdir()
    SafeCheckpointer(small_model(cfg), str(folder)).save("model_final")
    (folder / "config.yaml").write_text(cfg.dump())
    return folder


KEYPOINTS = [  # trained on a data set that is not here
    *("MODEL.KEYPOINT_ON", True, "MODEL.MASK_ON", False, "MODEL.ROI_HEADS.NUM_CLASSES", 1),
    *("MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", (8,), "DATASETS.TRAIN", ("people",)),
]
OTHERS = {"RetinaNet": RETINANET, "Cascade": CASCADE, "C4": C4, "Keypoints": KEYPOINTS}


@pytest.mark.parametrize("options", OTHERS.values(), ids=OTHERS)
def test_other_detectors_are_converted_alike(options, coco_dataset, codec, tmp_path):
    run = save_run(small_cfg("pixel", *options), tmp_path / "run")
    output_of("convert", run, coco_dataset[1], *CODEC, "--output", tmp_path / "out")
    output = predict_bitstream(tmp_path / "out", codec, coco_dataset[1] / "000.png")
    assert output["instances"].image_size == (96, 128) and output["bits"] > 0
    assert output["instances"].has("pred_keypoints") == ("MODEL.KEYPOINT_ON" in options)


@pytest.mark.parametrize(
    ("config", "answer"),
    [
        ("segmentation/small/pixel_deeplab_small.yaml", "sem_seg"),
        ("classification/small/pixel_resnet_small.yaml", "scores"),
    ],
)
def test_segmentors_and_classifiers_are_converted_alike(
    config, answer, coco_dataset, codec, tmp_path
):
    cfg = read_config(config, ["INPUT.IMAGE_SIZE", 96, "INPUT.MIN_SIZE_TEST", 96])
    run = save_run(cfg, tmp_path / "run")
    arguments = coco_dataset[1], *CODEC, "--output", tmp_path / "out"
    output_of("convert", run, *arguments)
    output = predict_bitstream(tmp_path / "out", codec, coco_dataset[1] / "000.png")
    assert output[answer].isfinite().all()


def test_one_model_is_made_for_files_of_several_qualities(teacher, tmp_path):
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    generator = torch.Generator().manual_seed(0)
    for number in range(32):
        patches = torch.randint(0, 256, (3, 12, 12), generator=generator, dtype=torch.uint8)
        image = patches.repeat_interleave(16, 1).repeat_interleave(16, 2)
        write_png(image, str(images / f"{number:02}.png"))
    qualities = "MODEL.CODEC.QUALITIES", "[0, 2]", "MODEL.BRIDGE.FIT_IMAGES", 32
    output_of("convert", teacher, images, *CODEC, "--output", out, *qualities)
    assert load_model(out, "cpu").network.translation.is_fitted
    for quality in (0, 2):
        codec = Codec.load("tiny-bmshj2018-hyperprior", quality)
        output = predict_bitstream(out, codec, images / "00.png")
        assert output["instances"].image_size == (192, 192)


def test_an_output_of_something_else_is_not_touched(teacher, coco_dataset, tmp_path):
    arguments = coco_dataset[1], *CODEC, "--output"
    before = {path: path.read_bytes() for path in teacher.iterdir()}
    assert str(teacher) in refused("convert", teacher, *arguments, teacher)
    assert before == {path: path.read_bytes() for path in teacher.iterdir()}


def test_an_interrupted_fit_is_done_again_by_the_same_command(teacher, coco_dataset, tmp_path):
    out = tmp_path / "out"
    words = "convert", teacher, coco_dataset[1], *CODEC, "--output", out
    output_of(*words)
    before = (out / "model_final.pth").read_bytes()
    (out / "model_final.pth").unlink()  # which is written last
    assert "another conversion" in refused(*words, "MODEL.BRIDGE.WIDTH", 5)
    output_of(*words)
    assert (out / "model_final.pth").read_bytes() == before


def test_a_conversion_that_fails_leaves_nothing(teacher, coco_dataset, tmp_path):
    out, weights = tmp_path / "out", tmp_path / "other.pth"
    torch.save({"model": {"proposal_generator.rpn_head.conv.weight": torch.zeros(16)}}, weights)
    words = "convert", teacher, coco_dataset[1], *CODEC, "--output", out
    refused("convert", f"{teacher}/config.yaml:{weights}", *words[2:])
    assert not out.exists()


def test_a_fit_of_an_untrained_codec_is_called_useless(teacher, coco_dataset, tmp_path):
    words = coco_dataset[1], *CODEC, "--output", tmp_path / "out"
    status, output, errors = run("convert", teacher, *words, "--codec-weights", "untrained")
    assert status == 0 and "% of the variance" in output
    assert "--codec-weights" in errors


def test_a_model_that_cannot_predict_the_images_is_not_written(coco_dataset, tmp_path):
    size = "INPUT.CROP.ENABLED", True, "INPUT.CROP.SIZE", (80, 80), "INPUT.MIN_SIZE_TEST", 96
    run = save_run(
        read_config("segmentation/small/pixel_deeplab_small.yaml", size), tmp_path / "run"
    )
    words = coco_dataset[1], *CODEC, "--output", tmp_path / "out"
    assert "INPUT.CROP.SIZE" in refused("convert", run, *words)
    assert not (tmp_path / "out").exists()


def test_weights_that_are_not_of_the_pixel_model_are_refused(teacher, coco_dataset, tmp_path):
    arguments = coco_dataset[1], *CODEC, "--output"
    output_of("convert", teacher, *arguments, tmp_path / "once")
    other = f"{teacher}/config.yaml:{tmp_path}/once/model_final.pth"
    again = refused("convert", other, *arguments, tmp_path / "twice")
    assert "reads latents already" in again
    state = torch.load(teacher / "model_final.pth", weights_only=True)
    del state["model"]["roi_heads.box_predictor.cls_score.weight"]
    torch.save(state, tmp_path / "headless.pth")
    headless = f"{teacher}/config.yaml:{tmp_path}/headless.pth"
    assert "cls_score" in refused("convert", headless, *arguments, tmp_path / "third")
    assert not (tmp_path / "third" / "model_final.pth").exists()


def test_an_evaluation_leaves_the_config_of_the_training(teacher, coco_dataset, tmp_path):
    annotations, images = coco_dataset
    out = tmp_path / "out"
    output_of("convert", teacher, images, *CODEC, "--output", out)
    before = (out / "config.yaml").read_bytes()
    evaluation = (
        "--eval-only",
        "--register",
        "val",
        annotations,
        images,
        "DATASETS.TEST",
        "('val',)",
    )
    output_of("train", "--config-file", out / "config.yaml", *evaluation)
    assert (out / "config.yaml").read_bytes() == before and (out / "results.json").exists()


def test_a_training_does_not_overwrite_the_weights_that_it_begins_with(
    teacher, coco_dataset, tmp_path
):
    annotations, images = coco_dataset
    out = tmp_path / "out"
    output_of("convert", teacher, images, *CODEC, "--output", out)
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    data = "--register", "data", annotations, images, "DATASETS.TRAIN", "('data',)"
    words = "train", "--config-file", out / "config.yaml", *data, "SOLVER.MAX_ITER", 1
    for resume in ((), ("--resume",)):
        assert "OUTPUT_DIR" in refused(*words, *resume)
    assert before == {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}


def test_what_cannot_be_converted_is_named(teacher, coco_dataset, tmp_path):
    arguments = coco_dataset[1], *CODEC, "--output", tmp_path / "out"
    assert "nowhere" in refused("convert", tmp_path / "nowhere", *arguments)
    for key, value in {"ENTRY": "res5", "FIT_IMAGES": 0, "WIDTH": -1, "STRIDE": 7}.items():
        message = refused("convert", teacher, *arguments, f"MODEL.BRIDGE.{key}", value)
        assert f"MODEL.BRIDGE.{key}" in message
    text = (teacher / "config.yaml").read_text()
    (teacher / "config.yaml").write_text(text.replace("GeneralizedRCNN", "ProposalNetwork"))
    assert "ProposalNetwork, which cannot" in refused("convert", teacher, *arguments)
    text = text.replace("GeneralizedRCNN", "CompressedRCNN")
    (teacher / "config.yaml").write_text(text.replace("DOMAIN: image", "DOMAIN: latent"))
    assert "'latent'" in refused("convert", teacher, *arguments)
    for config in ("detection/small/pixel_mask_rcnn_small.yaml", "Base-RCNN-FPN.yaml"):
        assert f"{config}:WEIGHTS" in refused("convert", config, *arguments)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_config_for_a_gpu_is_converted_without_one(teacher, coco_dataset, tmp_path):
    text = (teacher / "config.yaml").read_text()
    (teacher / "config.yaml").write_text(text.replace("DEVICE: cpu", "DEVICE: cuda"))
    words = "convert", teacher, coco_dataset[1], *CODEC, "--output", tmp_path / "out"
    assert "MODEL.DEVICE" in refused(*words, "MODEL.DEVICE", "cuda")  # the user's own words
    output_of(*words)
    assert read_config(tmp_path / "out" / "config.yaml").MODEL.DEVICE == "cuda"


ROTATED = [
    *("MODEL.MASK_ON", False, "MODEL.PROPOSAL_GENERATOR.NAME", "RRPN"),
    *("MODEL.ANCHOR_GENERATOR.NAME", "RotatedAnchorGenerator"),
    *("MODEL.ANCHOR_GENERATOR.ANGLES", [[-90, 0, 45]]),
    *("MODEL.RPN.BBOX_REG_WEIGHTS", [1.0] * 5, "MODEL.RPN.POST_NMS_TOPK_TEST", 10),
    *("MODEL.ROI_HEADS.NAME", "RROIHeads", "MODEL.ROI_BOX_HEAD.POOLER_TYPE", "ROIAlignRotated"),
    *("MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS", [10.0, 10.0, 5.0, 5.0, 1.0]),
]


def test_a_model_whose_predictions_are_not_read_is_refused(coco_dataset, tmp_path):
    pytest.importorskip("detectron2._C", reason="Detectron2 has no compiled extension")
    run = save_run(small_cfg("pixel", *ROTATED), tmp_path / "run")
    words = coco_dataset[1], *CODEC, "--output", tmp_path / "out"
    assert "boxes" in refused("convert", run, *words)
    assert not (tmp_path / "out").exists()


def test_a_classifier_without_weights_is_converted_from_its_initialization(coco_dataset, tmp_path):
    timm = pytest.importorskip("timm", reason="timm is not installed")
    network = timm.create_model("test_resnet", num_classes=1000)
    torch.save(network.state_dict(), tmp_path / "timm.pth")
    words = "convert", "classification/small/pixel_lite0.yaml", coco_dataset[1], *CODEC
    words = *words, "--output", tmp_path / "out", "MODEL.CLASSIFIER.NETWORK", "timm/test_resnet"
    for init in ("imagenet", tmp_path / "timm.pth"):  # of 1,000 classes; the config has 7
        message = refused(*words, "MODEL.CLASSIFIER.INIT", init)
        assert "pixel_lite0.yaml:WEIGHTS" in message and "NUM_CLASSES" in message
    classes = "MODEL.CLASSIFIER.NUM_CLASSES", 1000
    output_of(*words, *classes, "MODEL.CLASSIFIER.INIT", tmp_path / "timm.pth")
    (tmp_path / "timm.pth").unlink()
    model = load_model(tmp_path / "out", "cpu")
    state = model.network.network.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())


def test_what_a_folder_lacks_to_be_converted_is_named(teacher, coco_dataset, tmp_path):
    arguments = coco_dataset[1], *CODEC, "--output", tmp_path / "out"
    (teacher / "model_final.pth").rename(tmp_path / "weights.pth")
    assert "model_final.pth" in refused("convert", teacher, *arguments)
    (teacher / "config.yaml").unlink()
    assert str(teacher) in refused("convert", teacher, *arguments)
    (tmp_path / "weights.pth").rename(teacher / "model_final.pth")
    assert "config.yaml" in refused("convert", teacher, *arguments)


def test_the_weights_of_a_config_are_those_that_its_training_left(teacher, coco_dataset, tmp_path):
    arguments = coco_dataset[1], *CODEC, "--output", tmp_path / "out"
    output_of("convert", teacher / "config.yaml", *arguments)
    assert (tmp_path / "out" / "model_final.pth").is_file()
