"""An image that begins inside of a latent cell: CompressAI's own tools pad around it."""

import pytest
import torch
import torch.nn.functional as F
from compressai.ops import compute_padding
from torchvision.ops import box_iou

from cdl_d2 import Predictor
from cdl_d2.codec import Bitstream
from cdl_d2.codec.io.image_files import read_image
from cdl_d2.errors import CdlError
from cdl_d2.nn.input.canvas import Canvas
from cdl_d2.nn.input.coded_input import CodedInput
from cdl_d2.packaged import SAMPLES
from tests.codec.conftest import compressai_stream
from tests.tv.conftest import make_item, tiny_detector

ORIGIN, SIZE = (5, 9), (70, 90)


@pytest.fixture(scope="module")
def photo():
    """200 x 300 pixels of two images of nuclei side by side, RGB in [0, 1]."""
    halves = (read_image(SAMPLES / f"nuclei/images/val_{n}.png") for n in ("0001", "0015"))
    return torch.cat(list(halves), dim=2)[:, :200, :300].float() / 255


def test_pixels_and_boxes_of_a_centred_image_are_where_they_are(photo):
    predictor = Predictor.load("nuclei-bridge", device="cpu")
    codec = predictor.model.coded_input.codec
    (left, right, top, bottom), _ = compute_padding(200, 300, min_div=64)
    assert left % 16 and top % 16
    found, psnr = [], []
    for padding in ((0, left + right, 0, top + bottom), (left, right, top, bottom)):
        stream = compressai_stream(codec, photo, padding)
        decoded = codec.decode(codec.decompress(Bitstream.from_bytes(stream.to_bytes())))
        psnr.append(float(-10 * F.mse_loss(decoded, photo).log10()))
        found.append(predictor(stream))
    assert abs(psnr[0] - psnr[1]) < 0.5
    corner, centred = found
    assert corner.image_size == centred.image_size == (200, 300)
    overlap, same = box_iou(corner.boxes, centred.boxes).max(1)
    certain = (corner.scores > 0.5) & (overlap > 0.5)
    assert certain.sum() > 0.7 * (corner.scores > 0.5).sum() > 10
    assert (corner.boxes[certain] - centred.boxes[same[certain]]).median(0).values.abs().max() < 1.5
    masks, others = corner.masks[certain].flatten(1), centred.masks[same[certain]].flatten(1)
    assert ((masks & others).sum(1) / (masks | others).sum(1)).median() > 0.7


def test_a_model_of_pixels_sees_the_image_alone(codec, photo):
    padding, _ = compute_padding(200, 300, min_div=64)
    stream = compressai_stream(codec, photo, padding)
    item = CodedInput("reconstruction", codec).read(stream)
    assert item["reconstruction"].shape == photo.shape and "image_origin" not in item
    assert (item["reconstruction"] / 255 - photo).abs().mean() < 0.03


def inner_and_whole(model, item):
    """An encoded item whose image begins at ORIGIN, and one of all that the other shows."""
    image = {key: item[key] for key in ("image",)}
    whole = model.coded_input.encode(image, model.device)
    del whole["image"], whole["encoded_image"]
    size = tuple(side - before for side, before in zip(SIZE, ORIGIN, strict=True))
    return whole | {"image_origin": ORIGIN, "image_size": size}, whole


def on_inner(boxes, scale=1):
    """Boxes of the whole as boxes of the image that begins at ORIGIN."""
    before = boxes.new_tensor([*ORIGIN[::-1]] * 2)
    limit = boxes.new_tensor([scale * (SIZE[1] - ORIGIN[1]), scale * (SIZE[0] - ORIGIN[0])] * 2)
    return ((boxes - before) * scale).clamp(min=0).minimum(limit)


@pytest.mark.parametrize("masks", [True, False])
@torch.no_grad()
def test_torchvisions_detector_gives_results_in_pixels_of_the_image(masks):
    model = tiny_detector(masks=masks).eval()
    inner, whole = inner_and_whole(model, make_item(*SIZE))
    found, expected = model([inner])[0], model([whole])[0]
    boxes = on_inner(expected["boxes"])
    kept = (boxes[:, 2:] > boxes[:, :2]).all(1)
    assert kept.any() and torch.allclose(found["boxes"], boxes[kept], atol=1e-3)
    assert ("masks" in found) == masks
    if masks:
        inner_masks = expected["masks"][kept][..., ORIGIN[0] :, ORIGIN[1] :]
        assert torch.equal(found["masks"], inner_masks)
    assert found["image_size"] == inner["image_size"]


def test_training_refuses_what_it_cannot_undo():
    model = tiny_detector().train()
    item = make_item(*SIZE)
    inner, _ = inner_and_whole(model, item)
    with pytest.raises(CdlError, match=r"begins at \(5, 9\)"):
        model([inner | {"target": item["target"]}])


@pytest.mark.parametrize("wanted", [{}, {"height": 33, "width": 200}])
def test_the_corners_of_the_image_are_those_of_the_canvas(wanted):
    item = {"latent": torch.zeros(1, 5, 6), "image_size": (65, 81), "image_origin": ORIGIN}
    canvas = Canvas.of(item | wanted)
    height, width = wanted.get("height", 65), wanted.get("width", 81)
    assert canvas.image_size == (height, width)
    assert canvas.maps_on_image(torch.zeros(2, *canvas.size)).shape == (2, height, width)
    scale = [canvas.size[i] / canvas.shown[i] for i in (1, 0)]
    corners = torch.tensor([[9.0, 5.0], [90.0, 70.0]]) * torch.tensor(scale)
    moved = canvas.points_on_image(corners)
    assert torch.allclose(moved, torch.tensor([[0, 0], [width, height]]).float(), atol=1e-3)
