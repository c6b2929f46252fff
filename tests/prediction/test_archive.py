"""cdl predict: whole archives, part by part."""

import csv
import glob
import gzip
import io
import json
import os
import shutil
import tarfile

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from cdl_d2 import Predictor
from cdl_d2.errors import CdlError
from cdl_d2.files import without_nan, write_json
from cdl_d2.metrics.coco_precision import CocoIndex, average_precision
from cdl_d2.prediction import archive
from cdl_d2.prediction.archive import ArchivePrediction
from cdl_d2.prediction.sources import find_image_files, find_sources
from tests.commands import output_of, refused, run
from tests.tv.conftest import CLASSES, CODEC


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr("cdl_d2.prediction.archive.PART_SIZE", 2)


def files_of(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def found_in(folder):
    """The objects by image, without numbers."""
    images = json.loads((folder / "images.json").read_text())["images"]
    stems = {image["id"]: image["file_name"].rpartition(".")[0] for image in images}
    records = {stem: [] for stem in stems.values()}
    for entry in json.loads((folder / "predictions.json").read_text()):
        records[stems[entry.pop("image_id")]].append(entry)
    return records


def assert_same_objects(records, expected):
    """Entries of COCO results files are of the same objects, but for roundings."""
    assert len(records) == len(expected) > 0
    for a, b in zip(records, expected, strict=True):
        assert a["category_id"] == b["category_id"]
        assert a["score"] == pytest.approx(b["score"], abs=1e-4)
        assert a["bbox"] == pytest.approx(b["bbox"], abs=1e-2)
        masks = [coco_mask.decode(record["segmentation"]) for record in (a, b)]
        assert np.mean(masks[0] != masks[1]) < 1e-3  # of pixels; few are on the fence


def make_tar(folder, path):
    with tarfile.open(path, "w") as tar:
        for file in sorted(folder.rglob("*.*")):
            tar.add(file, f"./{file.relative_to(folder)}")
    return path


def test_folders_files_globs_tars_and_stores_give_the_same(latent_model, images, coded, tmp_path):
    (tmp_path / "tars").mkdir()
    tar = make_tar(coded, tmp_path / "tars" / "coded.tar")
    output_of(
        *("data", "encode", "--images", images, "--codec", CODEC.name, "--quality", 2),
        *("--form", "bitstreams", "--workers", 0, "--output", tmp_path / "latents"),
    )
    inputs = {
        "folder": [coded],
        "files": [*sorted(coded.glob("*.cdlz")), coded / "inner"],
        "glob": [coded / "*"],
        "tar": [tar],
        "folder of tars": [tmp_path / "tars"],
        "store": [tmp_path / "latents"],
    }
    records = {}
    for name, paths in inputs.items():
        output_of("predict", latent_model, *paths, "--output", tmp_path / name)
        records[name] = found_in(tmp_path / name)
    assert len(records["folder"]) == 5 and all(records["folder"].values())
    assert records["tar"] == records["store"] == records["folder"] == records["folder of tars"]
    plain = {stem.rpartition("/")[2]: value for stem, value in records["folder"].items()}
    assert records["files"] == records["glob"] == plain


def test_an_interrupted_run_goes_on_and_ends_as_one_that_was_not(latent_model, coded, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    output_of("predict", latent_model, coded, "--output", whole)
    assert len(list((whole / "parts").iterdir())) == 3
    shutil.copytree(whole, cut)
    for lost in ("parts/00001.json", "predictions.json", "images.json"):
        (cut / lost).unlink()
    kept = cut / "parts" / "00000.json"
    before = kept.stat().st_mtime_ns
    output_of("predict", latent_model, coded, "--output", cut)
    assert files_of(cut) == files_of(whole) and kept.stat().st_mtime_ns == before


def test_shares_add_up_to_the_whole(latent_model, coded, tmp_path):
    output_of("predict", latent_model, coded, "--output", tmp_path / "whole")
    for share in ("1/2", "0/2"):
        assert not (tmp_path / "shared" / "predictions.json").exists()
        words = "--output", tmp_path / "shared", "--shard", share
        output_of("predict", latent_model, coded, *words)
    assert files_of(tmp_path / "shared") == files_of(tmp_path / "whole")


def test_workers_and_batches_change_nothing_but_roundings(latent_model, coded, tmp_path):
    output_of("predict", latent_model, coded, "--output", tmp_path / "one")
    words = "--output", tmp_path / "two", "--workers", 2
    output_of("predict", latent_model, coded, *words)
    assert files_of(tmp_path / "two") == files_of(tmp_path / "one")
    output_of("predict", latent_model, coded, "--output", tmp_path / "b", "--batch-size", 2)
    alone, together = found_in(tmp_path / "one"), found_in(tmp_path / "b")
    assert together.keys() == alone.keys()
    for name, expected in alone.items():
        assert_same_objects(together[name], expected)


def test_a_broken_file_is_reported_and_the_rest_is_done(latent_model, coded, tmp_path):
    archive = tmp_path / "archive"
    shutil.copytree(coded, archive)
    content = (archive / "1.cdlz").read_bytes()
    (archive / "1.cdlz").write_bytes(content[:-20])
    (archive / "picture.jpg").write_text("not an image")
    status, output, errors = run("predict", latent_model, archive, "--output", tmp_path / "out")
    assert status == 1 and "4 images, 2 failures" in output
    assert "1.cdlz" in errors and "picture.jpg" in errors and "Traceback" not in errors
    failures = json.loads((tmp_path / "out" / "images.json").read_text())["failures"]
    assert failures.keys() == {"1.cdlz", "picture.jpg"} and len(found_in(tmp_path / "out")) == 4


def test_what_was_broken_is_tried_again(latent_model, coded, tmp_path, monkeypatch):
    from cdl_d2.prediction.reading import SourceReader

    read, lost = SourceReader.__call__, OSError("the disk is away: 0.cdlz")

    def without_disk(self, source):
        if source.name == "0.cdlz":
            raise lost
        return read(self, source)

    words = "predict", latent_model, coded, "--output", tmp_path / "cut"
    monkeypatch.setattr(SourceReader, "__call__", without_disk)
    assert run(*words)[0] == 1
    monkeypatch.setattr(SourceReader, "__call__", read)
    output_of(*words)
    output_of(*words[:-1], tmp_path / "whole")
    assert files_of(tmp_path / "cut") == files_of(tmp_path / "whole")


def test_outputs_among_inputs_are_refused(latent_model, coded, tmp_path):
    archive = tmp_path / "archive"
    shutil.copytree(coded, archive)
    inside = refused("predict", latent_model, archive, "--output", archive / "answers")
    assert "is in the input" in inside and not (archive / "answers").exists()


def test_files_that_are_mended_changed_or_new_are_predicted_and_other_parts_stay(
    latent_model, coded, tmp_path
):
    archive, output = tmp_path / "archive", tmp_path / "out"
    shutil.copytree(coded, archive)
    whole = (archive / "2.cdlz").read_bytes()
    (archive / "2.cdlz").write_bytes(whole[:-20])
    tar = make_tar(coded / "inner", tmp_path / "whole.tar").read_bytes()
    (archive / "z.tar").write_bytes(tar[:700])
    shutil.rmtree(archive / "inner")
    words = "predict", latent_model, archive, "--output", output
    status, printed, errors = run(*words)
    assert status == 1 and "2 images, 2 failures" in printed
    assert "2.cdlz" in errors and "z.tar" in errors
    first = output / "parts" / "00000.json"
    kept = first.read_bytes()
    before = first.stat().st_mtime_ns
    (archive / "2.cdlz").write_bytes(whole)
    (archive / "z.tar").write_bytes(tar)
    assert "5 images, 0 failures" in output_of(*words)
    assert first.stat().st_mtime_ns == before
    shutil.copy(archive / "2.cdlz", archive / "0.cdlz")
    output_of(*words)
    assert first.read_bytes() != kept
    records = found_in(output)
    assert records["0"] == records["2"]


def test_pictures_are_drawn_beside(latent_model, coded, tmp_path):
    output_of("predict", latent_model, coded, "--draw", "--output", tmp_path)
    assert len(list((tmp_path / "pictures").rglob("*.png"))) == 5
    assert (tmp_path / "pictures" / "inner" / "3.png").is_file()


def test_accuracy_is_that_of_the_backends_own_evaluation(latent_model, coco_dataset, tmp_path):
    annotations, folder = coco_dataset
    text = annotations.read_text().replace("class0", CLASSES[0]).replace("class1", CLASSES[1])
    annotations.write_text(text)
    val = "--val", annotations, folder
    checkpoint = latent_model / "model_final.pth"
    words = "--eval-only", checkpoint, *val, "--output", tmp_path / "evaluated"
    codec = "--codec", CODEC.name, "--quality", CODEC.quality
    output_of("train-torchvision", *words, *codec)
    expected = json.loads((tmp_path / "evaluated" / "results.json").read_text())
    words = "--annotations", annotations, "--output", tmp_path / "out", "--json"
    printed = json.loads(output_of("predict", latent_model, folder, *words))
    assert printed == json.loads((tmp_path / "out" / "results.json").read_text())
    assert printed["bbox"]["AP"] == pytest.approx(expected["bbox"]["AP"])
    assert printed["segm"]["AP"] == pytest.approx(expected["segm"]["AP"])
    assert printed["rate"]["bpp"] == pytest.approx(expected["rate"]["bpp"])
    assert "images" not in printed


def test_results_say_how_many_of_the_annotated_images_were_given(
    latent_model, coco_dataset, tmp_path
):
    annotations, folder = coco_dataset
    text = annotations.read_text().replace("class0", CLASSES[0]).replace("class1", CLASSES[1])
    annotations.write_text(text)
    names = [image["file_name"] for image in json.loads(text)["images"]]
    words = "--annotations", annotations, "--output", tmp_path / "out", "--json"
    printed = json.loads(output_of("predict", latent_model, folder / names[0], *words))
    assert printed["images"] == {"given": 1, "annotated": len(names)}


def test_predictions_are_in_pixels_of_the_annotations(latent_model, coded, tmp_path):
    """Bitstreams of resized images need not have the original size in their header."""
    output_of("predict", latent_model, coded, "--output", tmp_path / "plain")
    content = json.loads((tmp_path / "plain" / "images.json").read_text())
    objects = json.loads((tmp_path / "plain" / "predictions.json").read_text())
    for image in content["images"]:  # half as large as coded
        image |= {"height": image["height"] // 2, "width": image["width"] // 2}
    truth = [
        {"id": i, "image_id": o["image_id"], "category_id": o["category_id"], "iscrowd": 0}
        | {"bbox": [side / 2 for side in o["bbox"]], "area": o["bbox"][2] * o["bbox"][3] / 4}
        for i, o in enumerate(objects, start=1)
    ]
    parts = {"images": content["images"], "categories": content["categories"]}
    (tmp_path / "truth.json").write_text(json.dumps(parts | {"annotations": truth}))
    words = "--annotations", tmp_path / "truth.json", "--output", tmp_path / "out", "--json"
    printed = json.loads(output_of("predict", latent_model, coded, *words))
    assert json.loads((tmp_path / "out" / "images.json").read_text()) == content
    coco = CocoIndex(json.loads((tmp_path / "truth.json").read_text()))
    submitted = json.loads((tmp_path / "out" / "predictions.json").read_text())
    again = average_precision(coco, submitted, "bbox")
    assert without_nan(again) == pytest.approx(printed["bbox"])
    assert printed["bbox"]["AP"] > 90
    parts["images"][3]["height"] *= 2
    (tmp_path / "truth.json").write_text(json.dumps(parts | {"annotations": truth}))
    line = refused("predict", latent_model, coded, *words[:2], "--output", tmp_path / "other")
    assert "of another shape" in line and not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    "case", ["none", "empty", "missing", "twice", "loop", "pipe", "cut", "cut between", "gzip"]
)
def test_inputs_that_cannot_be_used_are_one_line(latent_model, coded, tmp_path, case):
    inputs = {
        "none": [],
        "empty": [tmp_path / "empty"],
        "missing": [tmp_path / "nowhere"],
        "twice": [coded, coded / "0.cdlz"],
        "loop": [tmp_path / "loop.png"],
        "pipe": [tmp_path / "pipe.tar"],
        "cut": [tmp_path / "cut.tar"],
        "cut between": [tmp_path / "between.tar"],
        "gzip": [tmp_path / "packed.tar"],
    }[case]
    (tmp_path / "empty").mkdir()
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    os.mkfifo(tmp_path / "pipe.tar")
    (tmp_path / "cut.tar").write_bytes(make_tar(coded, tmp_path / "whole.tar").read_bytes()[:100])
    size = 512 * (1 + -(-(coded / "0.cdlz").stat().st_size // 512))  # header and first member
    (tmp_path / "between.tar").write_bytes((tmp_path / "whole.tar").read_bytes()[:size])
    whole = (tmp_path / "whole.tar").read_bytes()
    (tmp_path / "packed.tar").write_bytes(gzip.compress(whole)[:100])
    line = refused("predict", latent_model, *inputs, "--output", tmp_path / "out")
    assert not inputs or case == "twice" or inputs[0].name in line
    assert not (tmp_path / "out").exists()


def test_a_folder_of_another_run_is_refused(latent_model, pixel_model, coded, tmp_path):
    output_of("predict", latent_model, coded, "--output", tmp_path)
    assert "model" in refused("predict", pixel_model, coded, "--output", tmp_path)
    assert "inputs" in refused("predict", latent_model, coded / "inner", "--output", tmp_path)


@pytest.mark.parametrize("value", ["[]", "null", '"x"', "5", "NaN", "{", "{}"])
def test_a_plan_of_any_other_content_is_one_line(latent_model, coded, tmp_path, value):
    (tmp_path / "plan.json").write_text(value)
    line = refused("predict", latent_model, coded / "inner", "--output", tmp_path)
    assert str(tmp_path) in line


def test_a_damaged_part_is_predicted_again(latent_model, coded, tmp_path):
    words = "predict", latent_model, coded / "inner", "--output", tmp_path
    output_of(*words)
    whole, part = files_of(tmp_path), tmp_path / "parts" / "00000.json"
    content = json.loads(part.read_text())
    fewer = content | {"predictions": content["predictions"][:1]}
    first = content["predictions"][0]
    forged = content | {"predictions": [first | {"bits": None}, *content["predictions"][1:]]}
    values = [[], [1], [None], [{}], None, "x", 5, {}, fewer, forged, content | {"sources": []}]
    for damaged in map(json.dumps, values):
        part.write_text(damaged)
        output_of(*words)
        assert files_of(tmp_path) == whole
    part.write_bytes(part.read_bytes()[:-9])
    output_of(*words)
    assert files_of(tmp_path) == whole


def test_of_two_models_at_once_one_gets_the_folder(
    latent_model, pixel_model, tmp_path, monkeypatch
):
    def write_late(*arguments, **options):
        monkeypatch.setattr(archive, "write_json", write_json)
        ArchivePrediction(Predictor.load(pixel_model), {}, tmp_path).write_plan()
        write_json(*arguments, **options)

    monkeypatch.setattr(archive, "write_json", write_late)
    with pytest.raises(CdlError, match="model"):
        ArchivePrediction(Predictor.load(latent_model), {}, tmp_path).write_plan()


def test_members_of_a_tar_are_read_as_when_it_is_extracted_or_reported(
    latent_model, images, tmp_path
):
    pixels = np.zeros((64, 4096, 3), np.uint8)  # a hole of several blocks
    pixels[0, :40], pixels[-1, -9:] = 200, 90
    Image.fromarray(pixels).save(tmp_path / "sparse.bmp")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(images / "0.png", "0.png")
        tar.add(images / "1.png", "0.png")  # later, as `tar -r` does it
        for name, kind, target in (
            *(("hard.png", tarfile.LNKTYPE, "0.png"), ("0.png", tarfile.LNKTYPE, "0.png")),
            *(("in/soft.png", tarfile.SYMTYPE, "../hard.png"), ("away.png", b"2", "none.png")),
            *(("loop.png", tarfile.SYMTYPE, "loop.png"), ("pipe.png", tarfile.FIFOTYPE, "")),
            *(("../out.png", tarfile.SYMTYPE, "0.png"), ("x" * 300 + ".png", b"1", "0.png")),
            *(("hard.png/inner.png", tarfile.LNKTYPE, "0.png"),),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            tar.addfile(member)
        sparse = tarfile.TarInfo("sparse.bmp")
        sparse.pax_headers = {"GNU.sparse.map": "0,512", "GNU.sparse.size": "9000"}
        sparse.size = 512
        tar.addfile(sparse, io.BytesIO(bytes(512)))
    words = "predict", latent_model, tmp_path / "a.tar", "--draw", "--output", tmp_path / "out"
    status, _, errors = run(*words)
    failures = json.loads((tmp_path / "out" / "images.json").read_text())["failures"]
    reported = {"away.png", "loop.png", "pipe.png", "../out.png", "x" * 300 + ".png", "sparse.bmp"}
    assert status == 1 and failures.keys() == {*reported, "hard.png/inner.png"}
    assert all(name in errors for name in failures) and "Traceback" not in errors
    records = found_in(tmp_path / "out")
    output_of("predict", latent_model, images / "1.png", "--output", tmp_path / "one")
    one = found_in(tmp_path / "one")["1"]
    assert records == dict.fromkeys(("0", "hard", "in/soft"), one)


def test_images_that_differ_in_their_suffix_have_results_of_their_own(
    latent_model, images, tmp_path
):
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(images / "0.png", folder / "0.png")
    Image.open(images / "2.png").save(folder / "0.jpg")
    output_of("predict", latent_model, folder, "--draw", "--output", tmp_path / "out")
    names = {path.name for path in (tmp_path / "out" / "pictures").iterdir()}
    assert names == {"0.jpg.png", "0.png.png"}
    words = "--annotations", coco_with(tmp_path / "a.json", "0.png"), "--output", tmp_path / "no"
    assert "0.jpg and 0.png" in refused("predict", latent_model, folder, *words)


def coco_with(path, name):
    """A COCO file of one image."""
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)]
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5], "area": 25, "iscrowd": 0}
    image = {"id": 1, "file_name": name, "height": 64, "width": 96}
    parts = {"images": [image], "annotations": [box], "categories": categories}
    path.write_text(json.dumps(parts))
    return path


def test_what_cannot_be_read_in_a_folder_or_glob_is_reported(latent_model, images, tmp_path):
    folder = tmp_path / "a [1] é"
    (folder / "folder.tar").mkdir(parents=True)
    shutil.copy(images / "0.png", folder / "folder.tar" / "good.png")
    (folder / "dangling.png").symlink_to(tmp_path / "nowhere")
    (folder / "loop.tar").symlink_to(folder / "loop.tar")
    os.mkfifo(folder / "pipe.tar")
    os.mkfifo(folder / "pipe.png")
    (folder / "cut.tar").write_bytes(b"cut")
    names = {"dangling.png", "loop.tar", "pipe.tar", "pipe.png", "cut.tar"}
    for number, path in enumerate((folder, f"{glob.escape(str(folder))}/*", folder / "*")):
        output = tmp_path / f"out{number}"
        status, printed, errors = run("predict", latent_model, path, "--output", output)
        assert status == 1, errors
        assert "1 images, 5 failures" in printed
        assert json.loads((output / "images.json").read_text())["failures"].keys() == names


def test_annotations_of_something_else_are_refused(latent_model, images, coco_dataset, tmp_path):
    words = "predict", latent_model, images, "--output", tmp_path / "out", "--annotations"
    assert "class0" in refused(*words, coco_dataset[0])  # other names
    words = *words, coco_dataset[0], "--classes", "class0", "class1"
    assert "nowhere" in refused(*words[:-4], tmp_path / "nowhere.json")
    assert not (tmp_path / "out").exists()  # before anything is predicted
    assert "none of the predicted" in refused(*words)


@pytest.mark.xdist_group("ray")
def test_a_ray_cluster_gives_the_same_bytes(latent_model, coded, ray_cluster, tmp_path):
    output_of("predict", latent_model, coded, "--output", tmp_path / "here")
    output_of("predict", latent_model, coded, "--ray", "--output", tmp_path / "there")
    assert files_of(tmp_path / "there") == files_of(tmp_path / "here")


class TestWithDetectron2:
    @pytest.fixture(autouse=True)
    def needs(self):
        pytest.importorskip("detectron2", reason="Detectron2 is not installed")

    def test_a_classifier_writes_a_table_and_its_accuracy(self, images, tmp_path):
        from cdl_d2.d2.config_files import read_config
        from tests.prediction.test_predictor import TestWithDetectron2 as Other

        cfg = read_config(
            "classification/small/latent_resnet_small.yaml",
            ["MODEL.CLASSIFIER.NUM_CLASSES", 2, "INPUT.IMAGE_SIZE", 64],
        )
        model = Other().saved(cfg, tmp_path / "run")
        for index, name in enumerate(("cat", "dog")):
            (tmp_path / "data" / name).mkdir(parents=True)
            shutil.copy(images / f"{index}.png", tmp_path / "data" / name / f"{index}.png")
        words = "--annotations", tmp_path / "data", "--classes", "cat", "dog"
        output = output_of(
            "predict", model, tmp_path / "data", *words, "--output", tmp_path / "out"
        )
        with open(tmp_path / "out" / "predictions.csv") as file:
            rows = list(csv.DictReader(file))
        assert [row["file"] for row in rows] == ["cat/0.png", "dog/1.png"]
        right = sum(row["class"] == row["file"][:3] for row in rows)
        assert f"top1 {50 * right:.3g}" in output

    def test_a_panoptic_model_writes_segments(self, images, tmp_path):
        from PIL import Image

        from tests.d2.conftest import small_cfg
        from tests.d2.modeling.test_meta_architectures import PANOPTIC
        from tests.prediction.test_predictor import TestWithDetectron2 as Other

        options = "MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH", 0.0
        cfg = small_cfg("latent_panoptic_fpn", *PANOPTIC, *options)
        model = Other().saved(cfg, tmp_path / "run")
        output_of(
            "predict", model, images / "1.png", images / "2.png", "--output", tmp_path / "out"
        )
        content = json.loads((tmp_path / "out" / "panoptic.json").read_text())
        category_ids = {category["id"] for category in content["categories"]}
        assert len(content["annotations"]) == 2
        for annotation in content["annotations"]:
            colours = np.asarray(Image.open(tmp_path / "out/panoptic" / annotation["file_name"]))
            numbers, counts = np.unique(colours @ [1, 256, 65536], return_counts=True)
            areas = {each["id"]: each["area"] for each in annotation["segments_info"]}
            records = dict(zip(numbers.tolist(), counts.tolist(), strict=True))
            assert {number: records[number] for number in records if number} == areas
            assert {each["category_id"] for each in annotation["segments_info"]} <= category_ids
            assert areas
        assert Image.open(tmp_path / "out" / "labels" / "1.png").size == (50, 70)

    def test_a_segmentor_writes_label_maps_and_its_accuracy(self, images, tmp_path):
        from PIL import Image

        from cdl_d2.d2.config_files import read_config
        from tests.prediction.test_predictor import TestWithDetectron2 as Other

        cfg = read_config(
            "segmentation/small/latent_deeplab_small.yaml",
            ["MODEL.SEM_SEG_HEAD.NUM_CLASSES", 3, "INPUT.MIN_SIZE_TEST", 64],
        )
        model = Other().saved(cfg, tmp_path / "run")
        output_of("predict", model, images, "--output", tmp_path / "out")
        maps = tmp_path / "out" / "labels"
        assert np.asarray(Image.open(maps / "inner" / "3.png")).shape == (96, 64)
        words = "--annotations", maps, "--output", tmp_path / "out"
        assert "mIoU 100" in output_of("predict", model, images, *words)


def test_a_glob_through_all_folders_goes_through_each_once(tmp_path, monkeypatch):
    folder, other = tmp_path / "in [1]", tmp_path / "other"
    (folder / "a" / "b").mkdir(parents=True)
    other.mkdir()
    for path in (folder / "0.png", folder / "a" / "b" / "1.png", other / "2.png"):
        path.touch()
    for place in (folder, folder / "a", folder / "a" / "b"):  # circles, which would take for ever
        for link in ("x", "y", "z"):
            (place / link).symlink_to(tmp_path)
            (place / f"{link}-again").symlink_to(folder)
    (folder / "a" / "linked").symlink_to(other)
    monkeypatch.chdir(folder)
    names = ["0.png", "1.png", "2.png"]
    for pattern in (folder / "**" / "*.png", folder / "**" / "**" / "[0-9].*", "**/*.png"):
        assert sorted(find_sources([str(pattern)])) == names
    assert find_sources([str(folder / "**")]) == find_sources([str(folder)])
    (other / "in.png").mkdir()
    for name in ("in.png/4.png", "3.png"):
        (other / name).touch()
    for pattern in ("**/*", "**/*.png", "*"):
        assert sorted(find_sources([str(other / pattern)])) == ["2.png", "3.png", "4.png"]
    assert [*find_sources([str(folder / "a" / "**" / "b" / "*.png")])] == ["1.png"]


def test_image_files_of_one_name_in_several_folders_are_all_listed_once(tmp_path):
    files = [tmp_path / folder / "1.png" for folder in "ab"]
    for file in files:
        file.parent.mkdir()
        file.touch()
    inputs = [*(str(file.parent) for file in files), str(files[0])]
    assert find_image_files(inputs) == files
