"""Properties of converted networks, and of interrupted conversions."""

import copy
import io
from functools import partial

import pytest
import torch
from torch import nn

import cdl_d2
from cdl_d2.codec.latent import Latent
from cdl_d2.conversion import Conversion, DistillationOptions, LatentNetwork, Preprocessing
from cdl_d2.conversion import distillation as distillation_module
from cdl_d2.conversion.image_network import ImageNetwork
from cdl_d2.conversion.losses import named_tensors
from cdl_d2.errors import CdlError
from cdl_d2.nn.bridge.stage import run_to
from tests.conversion.networks import SIDE, Cifar, Normalized, region_detector, resnet, ssd

HALF = {"mean": (0.5,) * 3, "std": (0.25,) * 3}
SQUARE = Preprocessing(**HALF, short_edge=SIDE, crop=SIDE)
NO_TRAINING = DistillationOptions(iterations=0)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return Cifar().eval()


@pytest.fixture(scope="module")
def student(network, codec, photos) -> LatentNetwork:
    return Conversion(network, codec, photos, SQUARE).to_latents(NO_TRAINING)


@pytest.fixture
def latents(student) -> list[Latent]:
    return [student.encode(torch.randint(0, 256, (3, 48, 48), dtype=torch.uint8)) for _ in "ab"]


def test_copies_and_states_give_the_same_output(student, network, codec, latents):
    expected = student(latents)
    file = io.BytesIO()
    torch.save(student, file)
    file.seek(0)
    again = LatentNetwork(network, codec, SQUARE)
    again.load_state_dict(student.state_dict())
    for twin in (copy.deepcopy(student), torch.load(file, weights_only=False), again):
        assert torch.equal(twin(latents), expected)


def test_a_batch_gives_what_its_images_give_one_by_one(student, latents):
    single = torch.cat([student(latent) for latent in latents])
    assert torch.allclose(student(latents), single, atol=1e-5)
    y_hat = torch.stack([latent.y_hat for latent in latents])
    sizes = [latent.image_size for latent in latents]
    assert torch.equal(student(y_hat, sizes), student(latents))


def test_the_last_rows_and_columns_are_fitted_as_the_first_are(network, codec, photos):
    preprocessing = Preprocessing(**HALF, short_edge=80, crop=80)  # coded as 128 x 128 pixels
    conversion = Conversion(network, codec, photos, preprocessing)
    student = conversion.to_latents(NO_TRAINING)
    errors = []
    for file in [*conversion.kept_aside, *sorted(photos.iterdir())]:
        image = conversion.read(file)
        features = [
            run_to(runner.network.conv1, partial(runner.run, [image]))[1]
            for runner in (student, conversion.teacher)
        ]
        errors.append((features[0] - features[1])[0].square().mean(0))
    error = torch.stack(errors).mean(0)
    assert error[-8:].mean() < 1.5 * error[:8].mean()
    assert error[:, -8:].mean() < 1.5 * error[:, :8].mean()


def test_exported_networks_give_the_same_output(student, latents, tmp_path):
    y_hat = torch.stack([latent.cells for latent in latents])
    program = torch.export.export(student, (y_hat,), strict=False)
    expected = student(y_hat)
    assert torch.allclose(program.module()(y_hat), expected, atol=1e-5)
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    path = tmp_path / "network.onnx"
    torch.onnx.export(program, (y_hat,), path, dynamo=True, verbose=False)
    session = runtime.InferenceSession(path)
    (output,) = session.run(None, {session.get_inputs()[0].name: y_hat.numpy()})
    assert torch.allclose(torch.from_numpy(output), expected, atol=1e-4)


@pytest.mark.parametrize(("build", "entry"), [(resnet, "layer1"), (Cifar, "layers.0")])
def test_a_network_is_entered_behind_a_stage(build, entry, codec, photos):
    torch.manual_seed(0)
    network = build()
    conversion = Conversion(network, codec, photos, SQUARE)
    student = conversion.to_latents(DistillationOptions(iterations=1, batch_size=2), entry=entry)
    assert 0.3 < conversion.explained <= 1 and len(conversion.history) == 2
    image = conversion.read(conversion.kept_aside[0])
    with torch.no_grad():
        assert student.run([image]).shape == conversion.teacher.run([image]).shape
    counts = [sum(p.numel() for p in n.parameters()) for n in (network, student.network)]
    assert counts[0] != counts[1] and not hasattr(student.network.conv1, "weight")
    again = LatentNetwork(build(), codec, SQUARE, entry=entry)
    again.load_state_dict(student.state_dict())
    assert torch.equal(again.run([image]), student.run([image]))


@pytest.mark.parametrize("side", [50, 75, 300])
@pytest.mark.parametrize(("entry", "stride"), [("layer1", 4), ("layer2", 8)])
def test_an_image_of_any_size_has_stages(entry, stride, side, codec):
    preprocessing = Preprocessing(**HALF, short_edge=side, crop=side)
    student = LatentNetwork(resnet(), codec, preprocessing, entry=entry)
    assert student.bridge.stride == stride


@pytest.mark.parametrize("entry", ["layer9", "conv1.bias", "fc"])
def test_what_is_no_stage_is_named(entry, codec):
    with pytest.raises(CdlError, match=entry):
        LatentNetwork(resnet(), codec, SQUARE, entry=entry)


def test_normalization_inside_of_the_network_is_as_outside(codec, photos):
    torch.manual_seed(0)
    networks = Normalized(0.5, 0.25).eval(), Normalized(0.0, 1.0).eval()
    networks[1].load_state_dict(networks[0].state_dict())
    ranges = ((0.0,) * 3, (1.0,) * 3), HALF.values()
    first, second = (
        Conversion(
            network, codec, photos, Preprocessing(mean, std, short_edge=SIDE, crop=SIDE)
        ).to_latents(NO_TRAINING)
        for network, (mean, std) in zip(networks, ranges, strict=True)
    )
    latent = first.encode(torch.randint(0, 256, (3, 48, 48), dtype=torch.uint8))
    assert torch.allclose(first(latent), second(latent), atol=1e-3)


def test_wrappers_modes_and_random_states_do_not_matter(network, student, codec, photos, latents):
    training = nn.DataParallel(torch.compile(copy.deepcopy(network).train()))
    state = torch.get_rng_state()
    again = cdl_d2.convert(
        training, codec, images=photos, preprocessing=SQUARE, distillation=NO_TRAINING
    )
    assert torch.equal(torch.get_rng_state(), state) and training.module.training
    assert torch.allclose(again.cpu()(latents), student(latents), atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_network_of_any_precision_stays_in_it(dtype, network, student, codec, photos, latents):
    lower = cdl_d2.convert(
        copy.deepcopy(network).to(dtype),
        **{"codec": codec, "images": photos, "preprocessing": SQUARE, "distillation": NO_TRAINING},
    )
    output, expected = lower(latents), student(latents)
    assert output.dtype == dtype
    assert (output.float() - expected).abs().max() < 0.05 * expected.abs().max()


def test_a_detector_keeps_its_transform_and_returns_boxes_in_pixels_of_the_image(codec):
    detector = region_detector(min_size=800, max_size=1333)
    teacher = ImageNetwork(detector, Preprocessing.of_network(detector))
    assert detector.transform.image_mean == [0.485, 0.456, 0.406]
    assert teacher.preprocessing.short_edge == 800
    student = LatentNetwork(detector, codec, Preprocessing.of_network(detector))
    images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in [(48, 90), (33, 64)]]
    resized = region_detector(min_size=48, max_size=1333).eval()  # as the first image is
    resized.load_state_dict(detector.state_dict())
    expected = resized([images[0] / 255])[0]["boxes"]
    assert torch.allclose(teacher.run(images[:1])[0]["boxes"], expected, atol=1e-3)
    for output, image in zip(student.run(images), images, strict=True):
        height, width = image.shape[1:]
        limits = torch.tensor([width, height, width, height])
        assert len(output["boxes"]) and (output["boxes"] <= limits).all()
        assert output["boxes"].max() > 16


def test_a_detector_of_squares_reads_squares(codec):
    detector = ssd()
    preprocessing = Preprocessing.of_network(detector)
    image = preprocessing.apply(torch.zeros(3, 30, 70, dtype=torch.uint8))
    assert image.shape == (3, SIDE, SIDE)
    student = LatentNetwork(detector, codec, preprocessing)
    names = [name for name, _ in named_tensors(student.run([image]))]
    assert names == ["boxes", "scores"]


def test_an_interrupted_conversion_ends_as_an_uninterrupted_one(
    network, codec, photos, tmp_path, monkeypatch
):
    options = DistillationOptions(iterations=4, batch_size=2, learning_rate=1e-3)

    def convert(folder):
        conversion = Conversion(network, codec, photos, SQUARE, folder)
        return conversion.to_latents(options).state_dict(), conversion.history

    def interrupted_step(self, optimizer, done):
        if self._iteration == 2:
            raise InterruptedError
        return step(self, optimizer, done)

    step = distillation_module.Distillation._step
    whole, history = convert(None)
    monkeypatch.setattr(distillation_module.Distillation, "_step", interrupted_step)
    with pytest.raises(InterruptedError):
        convert(tmp_path)
    monkeypatch.undo()
    other = Conversion(resnet(), codec, photos, SQUARE, tmp_path)
    with pytest.raises(cdl_d2.errors.CdlError):
        other.to_latents(options)
    for is_repeated in (False, True):  # then as after an interruption behind the training
        if is_repeated:
            monkeypatch.setattr(distillation_module.Distillation, "_step", interrupted_step)
        resumed, resumed_history = convert(tmp_path)
        assert resumed_history == history and len(history) > 2
        assert all(torch.equal(value, whole[name]) for name, value in resumed.items())
