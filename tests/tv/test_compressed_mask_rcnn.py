from dataclasses import replace

import pytest
import torch

from cdl_d2.tv import build_detector
from tests.tv.conftest import CODEC, make_item, tiny_config, tiny_detector

DOMAINS = ("latent", "reconstruction", "image")


@pytest.mark.parametrize("domain", DOMAINS)
def test_every_parameter_learns(domain, items):
    detector = tiny_detector(domain).train()
    losses = detector(items)
    sum(losses.values()).backward()
    assert len(losses) == 5
    assert all(p.grad is not None and p.grad.isfinite().all() for p in detector.parameters())


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("size", [(33, 65), (64, 64), (97, 47)])
def test_detections_lie_on_the_original_image(domain, size):
    detector = tiny_detector(domain).eval()
    detector.roi_heads.score_thresh = 0.0  # its weights are random
    item = {"image": make_item(*size)["image"], "height": 2 * size[0], "width": 2 * size[1]}
    found = detector([item])[0]
    assert len(found["boxes"])
    assert found["boxes"].min() >= 0
    assert (found["boxes"].amax(0) <= torch.tensor([2 * size[1], 2 * size[0]] * 2)).all()
    assert found["masks"].shape[1:] == (1, 2 * size[0], 2 * size[1])
    assert ("bits" in found) == (domain != "image")


def test_latents_and_images_give_the_same_detections(items):
    detector = tiny_detector().eval()
    image = items[0]["image"]
    latent = CODEC.load().encode(image.float() / 255)
    given = {"latent": latent.cells, "image_size": latent.image_size}
    first, second = detector([{"image": image}])[0], detector([given])[0]
    assert torch.equal(first["boxes"], second["boxes"])
    assert first["bits"] > 0


def test_an_image_smaller_than_its_padding_is_pooled_at_the_strides(items):
    detector = tiny_detector("image").eval()
    detector([{"image": make_item(33, 33)["image"]}])
    assert detector.roi_heads.box_roi_pool.scales == [1 / 4, 1 / 8, 1 / 16, 1 / 32]


def test_images_without_objects_train():
    losses = tiny_detector().train()([make_item(64, 64, boxes=())])
    assert sum(losses.values()).isfinite()


def test_a_state_of_another_codec_is_refused():
    other = build_detector(replace(tiny_config(), codec=replace(CODEC, quality=1)))
    with pytest.raises(ValueError, match="quality 1"):
        tiny_detector().load_state_dict(other.state_dict())


def test_an_item_without_target_cannot_be_trained_on(items):
    with pytest.raises(ValueError, match="'target'"):
        tiny_detector().train()([{"image": items[0]["image"]}])


def test_an_object_without_a_mask_trains_boxes_only(items):
    """What its mask would be does not matter; if all have one, nothing changes."""
    detector = tiny_detector("image").train()
    detector.roi_heads.fg_bg_sampler.batch_size_per_image = 64

    def losses(**changes):
        torch.manual_seed(1)
        first = items[0] | {"target": items[0]["target"] | changes}
        return {name: float(value) for name, value in detector([first, items[1]]).items()}

    plain, masks = losses(), items[0]["target"]["masks"]
    some = torch.tensor([False, True])
    without = losses(has_mask=some)
    assert losses(has_mask=torch.tensor([True, True])) == pytest.approx(plain)
    other = torch.stack([1 - masks[0], masks[1]])
    assert losses(has_mask=some, masks=other) == without
    assert losses(masks=other)["loss_mask"] != pytest.approx(plain["loss_mask"], rel=1e-4)
    assert without["loss_classifier"] == pytest.approx(plain["loss_classifier"])
    assert losses(has_mask=torch.tensor([False, False]))["loss_mask"] > 0  # of the other image
