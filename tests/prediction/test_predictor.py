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
from cdl_d2.data.store.encoding import close_store, encode_shards
from cdl_d2.errors import CdlError
from cdl_d2.nn import CodedInput
from cdl_d2.prediction import Classification, Segmentation
from cdl_d2.prediction.reading import SourceReader, StoredLatent
from tests.tv.conftest import CLASSES


def same(one, other):
    return all(
        torch.equal(getattr(one, n), getattr(other, n)) for n in ("boxes", "labels", "masks")
    )


def test_path_bytes_and_arrays_of_an_image_give_the_same(latent_model, images):
    predictor, path = Predictor.load(latent_model), images / "0.png"
    found = predictor(path)
    array = np.asarray(Image.open(path))
    assert len(found) and found.bits_per_pixel > 0
    sources = str(path), path.read_bytes(), bytearray(path.read_bytes()), array, read_image(path)
    backwards = array[:, :, ::-1].copy()[:, :, ::-1]  # as OpenCV's BGR is turned around
    for source in (*sources, backwards, Image.open(path)):
        assert same(predictor(source), found)


def test_path_bytes_and_object_of_a_bitstream_give_the_same(latent_model, coded):
    predictor, path = Predictor.load(latent_model / "model_final.pth"), coded / "0.cdlz"
    found = predictor(path)
    stream = Bitstream.load(path)
    assert found.bits == 8 * path.stat().st_size
    assert same(predictor(path.read_bytes()), found) and same(predictor(stream), found)


def test_results_are_in_pixels_of_the_image_that_was_given(latent_model, images):
    found = Predictor.load(latent_model)(images / "1.png")  # seen at 90 x 64 pixels
    assert found.image_size == (70, 50) and found.masks.shape == (len(found), 70, 50)
    assert found.boxes[:, 2].max() <= 50 and found.boxes[:, 3].max() <= 70
    assert found.masks.dtype == torch.bool
    assert found.names == [CLASSES[label] for label in found.labels]
    assert (found.scores.diff() <= 0).all()


@pytest.mark.parametrize("model", ["latent_model", "pixel_model"])
def test_results_of_a_bitstream_are_in_pixels_of_the_image_before_it_was_resized(
    model, coded, request
):
    predictor, plain = Predictor.load(request.getfixturevalue(model)), Bitstream.load
    expected = predictor(coded / "1.cdlz")  # 70 x 50, and seen by a model of pixels at 90 x 64
    found = predictor(replace(plain(coded / "1.cdlz"), original_size=(210, 100)).to_bytes())
    assert expected.image_size == (70, 50) and found.image_size == (210, 100)
    assert torch.allclose(found.boxes, expected.boxes * torch.tensor([2, 3, 2, 3]), atol=1e-2)
    assert found.masks.shape == (len(found), 210, 100) and len(found)
    assert found.to_coco()[0]["segmentation"]["size"] == [210, 100]
    assert found.draw().shape == (210, 100, 3)
    assert found.bits_per_pixel is None or found.bits_per_pixel == found.bits / (70 * 50)


@pytest.mark.parametrize("cropped", [True, False])
@pytest.mark.parametrize("domain", ["image", "latent"])
def test_a_picture_has_the_size_of_the_results(coded, images, codec, domain, cropped):
    shown = CodedInput(domain, None if domain == "image" else codec)
    reader = SourceReader(shown, lambda image: image[:, :16, :16], cropped)
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
        found, expected = predictor(StoredLatent(tmp_path, name)), predictor(images / name)
        assert found.image_size == expected.image_size == predictor.read.size(images / name)
        assert predictor.read.size(StoredLatent(tmp_path, name)) == found.image_size
        assert torch.allclose(found.boxes, expected.boxes, atol=1e-2) and len(found)


def test_a_thin_image_is_an_image(latent_model):
    assert Predictor.load(latent_model)(np.zeros((1, 3000, 3), np.uint8)).image_size == (1, 3000)


def test_a_model_of_pixels_decodes_a_bitstream(pixel_model, coded, codec):
    predictor = Predictor.load(pixel_model)
    stream = Bitstream.load(coded / "0.cdlz")
    decoded = torch.round(codec.decode(codec.decompress(stream)) * 255).byte()
    assert same(predictor(stream), predictor(decoded))
    assert predictor(stream).bits_per_pixel is None


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_of_predictions_is_in_order(latent_model, coded, workers):
    predictor, paths = Predictor.load(latent_model), sorted(coded.rglob("*.cdlz"))
    streamed = list(predictor.stream(paths, batch_size=2, workers=workers))
    assert [each.image_size for each in streamed] == [
        Bitstream.load(path).image_size for path in paths
    ]
    for path, found in zip(paths, streamed, strict=True):
        assert torch.allclose(found.boxes, predictor(path).boxes, atol=1e-3)
        assert found.draw().shape == (*found.image_size, 3)


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
    predictor, told = Predictor.load(latent_model), []
    sources = [images / "0.png", images / "missing.png", b"CDLZ nonsense", images / "1.png"]
    with pytest.raises(FileNotFoundError, match=r"missing\.png"):
        list(predictor.stream(sources, workers=workers))
    found = list(predictor.stream(sources, 4, workers, lambda *args: told.append(args)))
    assert len(found) == 2 and [source for source, _ in told] == sources[1:3]


def test_a_prediction_is_drawn_on_its_image_or_on_one_of_its_size(latent_model, images, coded):
    predictor = Predictor.load(latent_model)
    found = predictor(coded / "0.cdlz")
    original = read_image(images / "0.png")
    on_decoded, on_original = found.draw(), found.draw(original)
    assert on_decoded.shape == on_original.shape == (64, 96, 3)
    assert on_decoded.dtype == np.uint8 and not np.array_equal(on_decoded, on_original)
    assert np.array_equal(on_original, found.draw(images / "0.png"))
    with pytest.raises(CdlError, match="64, 96"):
        found.draw(images / "1.png")


def test_detections_as_coco_entries_and_as_instances(latent_model, images):
    from pycocotools import mask

    found = Predictor.load(latent_model)(images / "0.png")
    entries = found.to_coco(image_id=7, category_ids=[3, 9])
    left, top, width, height = entries[0]["bbox"]
    assert torch.allclose(found.boxes[0], torch.tensor([left, top, left + width, top + height]))
    assert {entry["category_id"] for entry in entries} <= {3, 9}
    assert np.array_equal(mask.decode(entries[0]["segmentation"]), found.masks[0].numpy())
    pytest.importorskip("detectron2", reason="Detectron2 is not installed")
    instances = found.to_instances()
    assert torch.equal(instances.pred_boxes.tensor, found.boxes) and len(instances) == len(found)


def test_supervision_reads_detections(latent_model, images):
    pytest.importorskip("detectron2", reason="Detectron2 is not installed")
    supervision = pytest.importorskip("supervision", reason="supervision is not installed")
    found = Predictor.load(latent_model)(images / "0.png")
    theirs = supervision.Detections.from_detectron2({"instances": found.to_instances()})
    assert np.array_equal(theirs.xyxy, found.boxes) and np.array_equal(theirs.mask, found.masks)


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
    other = Codec.load("tiny-bmshj2018-hyperprior", 1)
    stream = other.compress(read_image(images / "0.png").float() / 255)
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
        from cdl_d2.d2.applications.trained import evaluation_mapper, load_trained
        from tests.d2.conftest import small_cfg

        cfg = small_cfg("latent", "MODEL.CLASS_NAMES", ["disc", "square"])
        folder = self.saved(cfg, tmp_path / "run")
        record = {"file_name": str(images / "1.png"), "height": 70, "width": 50}
        with torch.no_grad():
            item = evaluation_mapper(folder)(record)
            expected = load_trained(folder)([item])[0]["instances"]
        found = Predictor.load(folder)(images / "1.png")
        assert len(found) and torch.allclose(found.boxes, expected.pred_boxes.tensor)
        assert (
            torch.equal(found.masks, expected.pred_masks)
            and found.names[0] in cfg.MODEL.CLASS_NAMES
        )

    def test_keypoints_are_found_in_pixels_of_the_image(self, tmp_path, images):
        from tests.d2.conftest import small_cfg

        cfg = small_cfg(
            "latent",
            *("MODEL.META_ARCHITECTURE", "CompressedRCNN", "MODEL.KEYPOINT_ON", True),
            *("MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS", 3),
            *("MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", (8,)),
        )
        found = Predictor.load(self.saved(cfg, tmp_path / "run"))(images / "1.png")
        assert found.keypoints.shape == (len(found), 3, 3) and len(found)
        assert found.keypoints[..., 0].max() <= 50 and found.keypoints[..., 1].max() <= 70
        assert len(found.to_coco()[0]["keypoints"]) == 9
        assert torch.equal(found.to_instances().pred_keypoints, found.keypoints)
        assert found.draw().shape == (70, 50, 3)

    def test_a_segmentor_gives_a_class_for_every_pixel(self, tmp_path, images, coded):
        from cdl_d2.d2.config_files import read_config

        cfg = read_config(
            "segmentation/small/latent_deeplab_small.yaml",
            ["MODEL.SEM_SEG_HEAD.NUM_CLASSES", 3, "INPUT.MIN_SIZE_TEST", 64],
        )
        predictor = Predictor.load(self.saved(cfg, tmp_path / "run"))
        resized = replace(Bitstream.load(coded / "1.cdlz"), original_size=(140, 101))
        assert predictor(resized).segmentation.shape == (140, 101)
        found = predictor(images / "1.png")
        assert isinstance(found, Segmentation)
        assert found.segmentation.shape == (70, 50) and found.segmentation.max() < 3
        assert found.class_names == ("0", "1", "2") and found.draw().shape == (70, 50, 3)

    def test_a_classifier_gives_probabilities(self, tmp_path, images, coded):
        from cdl_d2.d2.config_files import read_config

        cfg = read_config(
            "classification/small/latent_resnet_small.yaml",
            ["MODEL.CLASSIFIER.NUM_CLASSES", 3, "INPUT.IMAGE_SIZE", 64],
        )
        predictor = Predictor.load(self.saved(cfg, tmp_path / "run"))
        for source in (images / "1.png", coded / "1.cdlz"):
            found = predictor(source)
            assert isinstance(found, Classification)
            assert found.probabilities.sum() == pytest.approx(1) and found.name in "012"
            assert found.draw().shape == (*found.image_size, 3)
