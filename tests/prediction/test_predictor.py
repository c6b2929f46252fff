"""One image in, typed results out, the same for all that holds an image."""

import itertools
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from cdl_d2 import Predictor
from cdl_d2.codec import Bitstream, Codec
from cdl_d2.codec.io.image_files import read_image
from cdl_d2.data import Plan, Variant
from cdl_d2.data.store.encoding import encode_shards
from cdl_d2.data.store.latent_store import close_store
from cdl_d2.errors import CdlError
from cdl_d2.nn import CodedInput
from cdl_d2.prediction import Classification, Segmentation
from cdl_d2.prediction.reading import SourceReader, StoredLatent
from tests.tv.conftest import CLASSES


def same(a, b):
    return all(torch.equal(getattr(a, n), getattr(b, n)) for n in ("boxes", "labels", "masks"))


def test_path_bytes_and_arrays_of_an_image_give_the_same(latent_model, images):
    predictor, path = Predictor.load(latent_model), images / "0.png"
    prediction = predictor(path)
    array = np.asarray(Image.open(path))
    assert len(prediction) and prediction.bits_per_pixel > 0
    sources = str(path), path.read_bytes(), bytearray(path.read_bytes()), array, read_image(path)
    backwards = array[:, :, ::-1].copy()[:, :, ::-1]  # as OpenCV's BGR is turned around
    for source in (*sources, backwards, Image.open(path)):
        assert same(predictor(source), prediction)


def test_path_bytes_and_object_of_a_bitstream_give_the_same(latent_model, coded):
    predictor, path = Predictor.load(latent_model / "model_final.pth"), coded / "0.cdlz"
    prediction = predictor(path)
    stream = Bitstream.load(path)
    assert prediction.bits == 8 * path.stat().st_size
    assert same(predictor(path.read_bytes()), prediction) and same(predictor(stream), prediction)


def test_results_are_in_pixels_of_the_image_that_was_given(latent_model, images):
    prediction = Predictor.load(latent_model)(images / "1.png")  # seen at 90 x 64 pixels
    assert prediction.image_size == (70, 50) and prediction.masks.shape == (len(prediction), 70, 50)
    assert prediction.boxes[:, 2].max() <= 50 and prediction.boxes[:, 3].max() <= 70
    assert prediction.masks.dtype == torch.bool
    assert prediction.names == [CLASSES[label] for label in prediction.labels]
    assert (prediction.scores.diff() <= 0).all()


@pytest.mark.parametrize("model", ["latent_model", "pixel_model"])
def test_results_of_a_bitstream_are_in_pixels_of_the_image_before_it_was_resized(
    model, coded, request
):
    predictor, plain = Predictor.load(request.getfixturevalue(model)), Bitstream.load
    expected = predictor(coded / "1.cdlz")  # 70 x 50, and seen by a model of pixels at 90 x 64
    prediction = predictor(replace(plain(coded / "1.cdlz"), original_size=(210, 100)).to_bytes())
    assert expected.image_size == (70, 50) and prediction.image_size == (210, 100)
    assert torch.allclose(prediction.boxes, expected.boxes * torch.tensor([2, 3, 2, 3]), atol=1e-2)
    assert prediction.masks.shape == (len(prediction), 210, 100) and len(prediction)
    assert prediction.to_coco()[0]["segmentation"]["size"] == [210, 100]
    assert prediction.draw().shape == (210, 100, 3)
    assert prediction.bits_per_pixel is None or prediction.bits_per_pixel == prediction.bits / (
        70 * 50
    )


@pytest.mark.parametrize("cropped", [True, False])
@pytest.mark.parametrize("domain", ["image", "latent"])
def test_a_picture_has_the_size_of_the_results(coded, images, codec, domain, cropped):
    coded_input = CodedInput(domain, None if domain == "image" else codec)
    reader = SourceReader(coded_input, lambda image: image[:, :16, :16], cropped)
    stream = replace(Bitstream.load(coded / "1.cdlz"), original_size=(140, 101))
    for source in (stream, images / "1.png"):
        item = reader(source)
        assert tuple(reader.picture(source).shape[1:]) == (item["height"], item["width"])


def test_results_of_a_stored_latent_are_in_pixels_of_the_image(
    latent_model, images, codec, tmp_path
):
    names, variants = ("1.png", "inner/3.png"), (Variant(64, flip=True), Variant(64))
    plan = Plan(codec.identity, "arrays", variants, names)
    plan.save(tmp_path)
    list(encode_shards(codec, plan, images, tmp_path, [0], workers=0))
    close_store(tmp_path, plan)
    predictor = Predictor.load(latent_model)
    for name in names:  # as the model resizes them
        prediction, expected = predictor(StoredLatent(tmp_path, name)), predictor(images / name)
        assert prediction.image_size == expected.image_size == predictor.read.size(images / name)
        assert predictor.read.size(StoredLatent(tmp_path, name)) == prediction.image_size
        assert torch.allclose(prediction.boxes, expected.boxes, atol=1e-2) and len(prediction)


def test_a_thin_image_is_an_image(latent_model):
    assert Predictor.load(latent_model)(np.zeros((1, 3000, 3), np.uint8)).image_size == (1, 3000)


def test_a_model_of_pixels_decodes_a_bitstream(pixel_model, coded, codec):
    predictor = Predictor.load(pixel_model)
    stream = Bitstream.load(coded / "0.cdlz")
    decoded = torch.round(codec.decode(codec.decompress(stream)) * 255).byte()
    assert same(predictor(stream), predictor(decoded))
    assert predictor(stream).bits_per_pixel is None


@pytest.mark.parametrize("workers", [0, 1])
def test_bfloat16_detects_nearly_the_same(latent_model, coded, workers):
    paths = sorted(coded.rglob("*.cdlz"))[:2]
    lowered = Predictor.load(latent_model, "cpu", precision="bfloat16").stream(paths, 1, workers)
    for path, prediction in zip(paths, lowered, strict=True):
        expected = Predictor.load(latent_model, "cpu")(path)
        assert prediction.scores.dtype == prediction.boxes.dtype == torch.float32
        assert torch.allclose(prediction.scores[:3], expected.scores[:3], atol=0.05)
        assert not torch.equal(prediction.boxes[:3], expected.boxes[:3])
    with pytest.raises(CdlError, match="float8"):
        Predictor.load(latent_model, "cpu", precision="float8")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_of_predictions_is_in_order(latent_model, coded, workers):
    predictor, paths = Predictor.load(latent_model), sorted(coded.rglob("*.cdlz"))
    streamed = list(predictor.stream(paths, batch_size=2, workers=workers))
    assert [each.image_size for each in streamed] == [
        Bitstream.load(path).image_size for path in paths
    ]
    for path, prediction in zip(paths, streamed, strict=True):
        assert torch.allclose(prediction.boxes, predictor(path).boxes, atol=1e-3)
        assert prediction.draw().shape == (*prediction.image_size, 3)


def test_workers_predict_the_same_however_they_are_started(latent_model, coded, start_method):
    predictor, paths = Predictor.load(latent_model), sorted(coded.rglob("*.cdlz"))[:3]
    alone, in_worker = (list(predictor.stream(paths, workers=workers)) for workers in (0, 1))
    assert len(in_worker) == 3 and all(map(same, alone, in_worker))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_stream_draws_its_sources_as_they_are_needed(latent_model, coded, workers):
    drawn, paths = itertools.count(), itertools.cycle(sorted(coded.rglob("*.cdlz")))
    sources = (path for _, path in zip(drawn, paths, strict=False))
    stream = Predictor.load(latent_model).stream(sources, batch_size=2, workers=workers)
    first = next(stream)
    assert next(drawn) <= 2 * (1 + 2 * workers + 1)
    assert same(first, Predictor.load(latent_model)(coded / "0.cdlz"))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_source_stops_a_stream_unless_somebody_is_told(latent_model, images, workers):
    predictor, errors = Predictor.load(latent_model), []
    sources = [images / "0.png", images / "missing.png", b"CDLZ nonsense", images / "1.png"]
    with pytest.raises(FileNotFoundError, match=r"missing\.png"):
        list(predictor.stream(sources, workers=workers))
    prediction = list(predictor.stream(sources, 4, workers, lambda *args: errors.append(args)))
    assert len(prediction) == 2 and [source for source, _ in errors] == sources[1:3]


def test_a_prediction_is_drawn_on_its_image_or_on_one_of_its_size(latent_model, images, coded):
    predictor = Predictor.load(latent_model)
    prediction = predictor(coded / "0.cdlz")
    original = read_image(images / "0.png")
    on_decoded, on_original = prediction.draw(), prediction.draw(original)
    assert on_decoded.shape == on_original.shape == (64, 96, 3)
    assert on_decoded.dtype == np.uint8 and not np.array_equal(on_decoded, on_original)
    assert np.array_equal(on_original, prediction.draw(images / "0.png"))
    with pytest.raises(CdlError, match="64, 96"):
        prediction.draw(images / "1.png")


def test_detections_as_coco_entries_and_as_instances(latent_model, images):
    from pycocotools import mask

    prediction = Predictor.load(latent_model)(images / "0.png")
    entries = prediction.to_coco(image_id=7, category_ids=[3, 9])
    left, top, width, height = entries[0]["bbox"]
    assert torch.allclose(
        prediction.boxes[0], torch.tensor([left, top, left + width, top + height])
    )
    assert {entry["category_id"] for entry in entries} <= {3, 9}
    assert np.array_equal(mask.decode(entries[0]["segmentation"]), prediction.masks[0].numpy())
    pytest.importorskip("detectron2", reason="Detectron2 is not installed")
    instances = prediction.to_instances()
    assert torch.equal(instances.pred_boxes.tensor, prediction.boxes) and len(instances) == len(
        prediction
    )


def test_supervision_reads_detections(latent_model, images):
    pytest.importorskip("detectron2", reason="Detectron2 is not installed")
    supervision = pytest.importorskip("supervision", reason="supervision is not installed")
    prediction = Predictor.load(latent_model)(images / "0.png")
    converted = supervision.Detections.from_detectron2({"instances": prediction.to_instances()})
    assert np.array_equal(converted.xyxy, prediction.boxes) and np.array_equal(
        converted.mask, prediction.masks
    )


@pytest.mark.parametrize(
    "source",
    [
        *(np.zeros((4, 4)), np.zeros((8, 8, 3)), np.zeros((0, 8, 3), np.uint8), b""),
        *("nothing.cdlz", None, np.zeros((3, 8, 8), np.uint8), torch.zeros(8, 8, 3).byte()),
    ],
    ids=["one channel", "floats", "empty", "no bytes", "no file", "nothing", "rows", "columns"],
)
def test_what_is_no_image_is_refused(latent_model, source):
    with pytest.raises((CdlError, FileNotFoundError)):
        Predictor.load(latent_model)(source)


def test_a_bitstream_of_another_codec_is_refused(latent_model, images):
    codec = Codec.load("tiny-bmshj2018-hyperprior", 1)
    stream = codec.compress(read_image(images / "0.png").float() / 255)
    with pytest.raises(CdlError, match=r"quality 1.*quality 2"):
        Predictor.load(latent_model)(stream)


def test_the_config_that_a_model_of_detectron2_lacks_is_named(tmp_path):
    torch.save({"model": {"backbone.weight": torch.zeros(1)}}, tmp_path / "model_final.pth")
    with pytest.raises(CdlError, match=re.escape(str(tmp_path / "config.yaml"))):
        Predictor.load(tmp_path)


def test_what_is_no_model_is_refused(images, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"model_final\.pth"):
        Predictor.load(tmp_path)
    with pytest.raises(CdlError, match="weights"):
        Predictor.load(images / "0.png")
    with pytest.raises(FileNotFoundError):
        Predictor.load(tmp_path / "missing.pth")
    with pytest.raises(CdlError, match="no-such-model"):
        Predictor.load("no-such-model")


def test_names_of_classes_can_be_given(latent_model):
    model = Predictor.load(latent_model, class_names=["a", "b"]).model
    assert model.class_names == ("a", "b")
    with pytest.raises(CdlError, match="3 class names"):
        Predictor.load(latent_model, class_names=["a", "b", "c"])


class TestWithDetectron2:
    @pytest.fixture(autouse=True)
    def needs(self):
        pytest.importorskip("detectron2", reason="Detectron2 is not installed")

    def saved(self, cfg, folder):
        from cdl_d2.d2 import SafeCheckpointer
        from tests.d2.conftest import small_model

        folder.mkdir()
        SafeCheckpointer(small_model(cfg), str(folder)).save("model_final")
        (folder / "config.yaml").write_text(cfg.dump())
        return folder

    def test_a_detector_finds_what_it_finds_in_its_evaluation(self, tmp_path, images):
        from cdl_d2.d2 import build_mapper
        from tests.d2.conftest import small_cfg

        cfg = small_cfg("latent", "MODEL.CLASS_NAMES", ["disc", "square"])
        folder = self.saved(cfg, tmp_path / "run")
        record = {"file_name": str(images / "1.png"), "height": 70, "width": 50}
        predictor = Predictor.load(folder, "cpu")
        with torch.no_grad():
            sample = build_mapper(cfg, is_train=False)(record)
            expected = predictor.model.network([sample])[0]["instances"]
        prediction = predictor(images / "1.png")
        assert len(prediction) and torch.allclose(prediction.boxes, expected.pred_boxes.tensor)
        assert (
            torch.equal(prediction.masks, expected.pred_masks)
            and prediction.names[0] in cfg.MODEL.CLASS_NAMES
        )

    def test_keypoints_are_found_in_pixels_of_the_image(self, tmp_path, images):
        from tests.d2.conftest import small_cfg

        cfg = small_cfg(
            "latent",
            *("MODEL.META_ARCHITECTURE", "CompressedRCNN", "MODEL.KEYPOINT_ON", True),
            *("MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS", 3),
            *("MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", (8,)),
        )
        prediction = Predictor.load(self.saved(cfg, tmp_path / "run"))(images / "1.png")
        assert prediction.keypoints.shape == (len(prediction), 3, 3) and len(prediction)
        assert prediction.keypoints[..., 0].max() <= 50 and prediction.keypoints[..., 1].max() <= 70
        assert len(prediction.to_coco()[0]["keypoints"]) == 9
        assert torch.equal(prediction.to_instances().pred_keypoints, prediction.keypoints)
        assert prediction.draw().shape == (70, 50, 3)

    def test_a_segmentor_gives_a_class_for_every_pixel(self, tmp_path, images, coded):
        from cdl_d2.d2.config_files import read_config

        cfg = read_config(
            "segmentation/small/latent_deeplab_small.yaml",
            ["MODEL.SEM_SEG_HEAD.NUM_CLASSES", 3, "INPUT.MIN_SIZE_TEST", 64],
        )
        predictor = Predictor.load(self.saved(cfg, tmp_path / "run"))
        resized = replace(Bitstream.load(coded / "1.cdlz"), original_size=(140, 101))
        assert predictor(resized).segmentation.shape == (140, 101)
        prediction = predictor(images / "1.png")
        assert isinstance(prediction, Segmentation)
        assert prediction.segmentation.shape == (70, 50) and prediction.segmentation.max() < 3
        assert prediction.class_names == ("0", "1", "2") and prediction.draw().shape == (70, 50, 3)

    def test_a_classifier_gives_probabilities(self, tmp_path, images, coded):
        from cdl_d2.d2.config_files import read_config

        cfg = read_config(
            "classification/small/latent_resnet_small.yaml",
            ["MODEL.CLASSIFIER.NUM_CLASSES", 3, "INPUT.IMAGE_SIZE", 64],
        )
        predictor = Predictor.load(self.saved(cfg, tmp_path / "run"))
        for source in (images / "1.png", coded / "1.cdlz"):
            prediction = predictor(source)
            assert isinstance(prediction, Classification)
            assert prediction.probabilities.sum() == pytest.approx(1) and prediction.name in "012"
            assert prediction.draw().shape == (*prediction.image_size, 3)
