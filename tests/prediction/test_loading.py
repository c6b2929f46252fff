"""MODEL: the names of a trained model on the command line."""

import pytest

from cdl_d2.errors import CdlError
from cdl_d2.prediction.loading import find_model
from tests.commands import refused


def test_a_model_is_named_by_folder_checkpoint_or_zoo_name(latent_model, tmp_path, monkeypatch):
    checkpoint = latent_model / "model_final.pth"
    for name in (latent_model, checkpoint):
        source = find_model(name)
        assert (source.backend, source.weights) == ("torchvision", str(checkpoint))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nuclei-bridge").mkdir()  # of predictions, say
    assert find_model("nuclei-bridge").card.name == "nuclei-bridge"
    assert find_model("coco").backend == "torchvision"
    with pytest.raises(CdlError, match="nuclei-bridge"):
        find_model("nuclei-brigde")
    with pytest.raises(CdlError, match="empty"):
        find_model("")  # and not the current folder
    for name in (tmp_path, "nowhere.pth"):
        with pytest.raises(FileNotFoundError, match=str(name)):
            find_model(name)


def test_a_config_may_name_its_weights():
    pytest.importorskip("detectron2", reason="Detectron2 is not installed")
    source = find_model("detection/small/pixel_mask_rcnn_small.yaml")
    assert (source.backend, source.weights) == ("detectron2", None)
    again = find_model(f"{source.config_file}:https://example.org/a.pth")
    assert (again.config_file, again.weights) == (source.config_file, "https://example.org/a.pth")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.yaml"):
        find_model("nowhere.yaml:a.pth")


@pytest.mark.parametrize(
    ("words", "new_form"),
    [
        ("compare --point a output --keys bbox/AP", "NAME=MODEL"),
        ("convert output/rgb --images=photos --codec c --quality 2 --output x", "MODEL INPUTS"),
    ],
)
def test_a_removed_option_is_one_line_with_the_new_form(words, new_form):
    assert new_form in refused(*words.split())
