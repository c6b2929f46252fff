"""Files of CompressAI's `examples/codec.py encode`, written here as that program writes them."""

import json
import struct
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from compressai.ops import compute_padding
from compressai.zoo import models
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

from cdl_d2 import Predictor
from cdl_d2.codec import BitstreamError, Codec, CodecChoice
from cdl_d2.codec.bitstream.compressai_file import MODELS, load_bitstream, read_compressai_file
from cdl_d2.codec.io.weights_file import save_weights
from cdl_d2.errors import CdlError
from cdl_d2.tv import build_detector
from cdl_d2.tv.checkpoint import save_detector
from tests.commands import output_of, run
from tests.conftest import small_network
from tests.tv.conftest import tiny_config

NAME, SIZE = "bmshj2018-hyperprior", (70, 90)
HEAD = 23  # bytes before the first string


@torch.no_grad()
def written(image: torch.Tensor, name: str = NAME) -> bytes:
    """The file of an image, 3 x H x W in [0, 1]; number of quality 1, mse, 8 bits."""
    padding, _ = compute_padding(*image.shape[1:], min_div=64)
    coded = small_network(name).compress(F.pad(image, padding)[None])
    code = (0 << 4) | (1 - 1 & 0x0F)
    content = struct.pack(">2B", list(models).index(name), code)
    content += struct.pack(">2I", *image.shape[1:]) + struct.pack(">1B", 8)
    content += struct.pack(">3I", *coded["shape"], len(coded["strings"]))
    for strings in coded["strings"]:
        content += struct.pack(">1I", len(strings[0])) + strings[0]
    return content


@torch.no_grad()
def decoded_by_compressai(content: bytes, name: str = NAME, size=SIZE) -> torch.Tensor:
    """What `examples/codec.py decode` makes of a file, 3 x H x W, uint8."""
    (rows, columns, count), start, strings = struct.unpack_from(">3I", content, 11), HEAD, []
    for _ in range(count):
        [length] = struct.unpack_from(">I", content, start)
        strings.append([content[start + 4 : start + 4 + length]])
        start += 4 + length
    x_hat = small_network(name).decompress(strings, (rows, columns))["x_hat"]
    _, unpadding = compute_padding(*size, out_h=x_hat.shape[2], out_w=x_hat.shape[3])
    return torch.round(F.pad(x_hat, unpadding)[0].clamp(0, 1) * 255).byte()


@pytest.fixture(scope="module")
def image():
    ramp = torch.linspace(0, 1, SIZE[1]).expand(3, *SIZE).clone()
    ramp[:, 20:50, 30:60] = torch.rand(3, 30, 30, generator=torch.Generator().manual_seed(0))
    return ramp


@pytest.fixture
def aligned_file(image, tmp_path):
    """A file whose image begins one latent position below and right of the latent's corner."""
    path = tmp_path / "aligned.bin"
    path.write_bytes(written(image[:, :32, :32]))
    return path


@pytest.fixture
def file(image, tmp_path):
    path = tmp_path / "photo.bin"
    path.write_bytes(written(image))
    return path


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_weights(path, small_network(NAME), {})
    return path


def test_information_says_whether_latent_models_can_read_a_file(file, aligned_file):
    for path, readable in ((file, "no"), (aligned_file, "yes")):
        status, printed, errors = run("codec", "info", path, "--json")
        assert status == 0
        assert json.loads(printed)[0]["latent models"] == readable
        assert (path.name in errors) == (readable == "no")


def test_models_have_the_numbers_that_compressai_gives_them():
    assert tuple(models)[: len(MODELS)] == MODELS


@pytest.mark.filterwarnings("ignore:files of CompressAI")
@pytest.mark.parametrize("name", ["bmshj2018-factorized", NAME, "mbt2018"])
def test_a_file_decodes_to_what_compressai_decodes(image, name):
    codec, content = Codec(small_network(name), name, 1, "mse", "dequantized"), written(image, name)
    stream = read_compressai_file(content)
    assert stream.image_size == SIZE and stream.bits == 8 * len(content)
    decoded = torch.round(codec.decode(codec.decompress(stream)) * 255).byte()
    assert torch.equal(decoded, decoded_by_compressai(content, name))


def test_commands_describe_and_decode_a_file(file, weights, tmp_path):
    (row,) = json.loads(output_of("codec", "info", file, "--json"))
    expected = {"codec": NAME, "quality": 1, "metric": "mse", "height": 70, "width": 90}
    assert row | expected | {"top": 29, "left": 19, "bytes": file.stat().st_size} == row
    with pytest.warns(UserWarning, match="files of CompressAI"):
        output_of("codec", "decompress", file, "--codec-weights", weights, "--output", tmp_path)
    decoded = pil_to_tensor(Image.open(tmp_path / "photo.png"))
    assert torch.equal(decoded, decoded_by_compressai(file.read_bytes()))


@pytest.mark.filterwarnings("ignore:files of CompressAI")
def test_a_predictor_reads_a_file_its_bytes_and_its_folder(aligned_file, file, weights, tmp_path):
    codec = CodecChoice(NAME, 1, weights=str(weights))
    config = replace(tiny_config(), codec=codec)
    (tmp_path / "model").mkdir()
    checkpoint = tmp_path / "model" / "model_final.pth"
    training = {"short_edge_val": 64, "max_size": 128}
    state = build_detector(config).state_dict()
    save_detector(checkpoint, config, state, training=training)
    predictor = Predictor.load(tmp_path / "model", device="cpu")
    prediction, content = predictor(aligned_file), aligned_file.read_bytes()
    assert prediction.image_size == (32, 32) and prediction.bits == 8 * len(content)
    assert torch.equal(predictor(content).boxes, prediction.boxes)
    assert torch.equal(prediction.picture(), decoded_by_compressai(content, size=(32, 32)))
    with pytest.raises(BitstreamError, match="cdl codec compress"):
        predictor(file)
    (tmp_path / "archive").mkdir()
    aligned_file.rename(tmp_path / "archive" / aligned_file.name)
    output_of("predict", tmp_path / "model", tmp_path / "archive", "--output", tmp_path / "answers")


def test_a_file_of_another_codec_is_rejected(image, codec):
    with pytest.raises(BitstreamError, match="was made by bmshj2018-hyperprior"):
        codec.decompress(read_compressai_file(written(image)))
    with pytest.raises(CdlError, match="does not"):
        read_compressai_file(written(image)).to_bytes()


def test_every_truncation_is_noticed(image):
    content = written(image)
    for length in range(len(content)):
        with pytest.raises(BitstreamError, match="truncated"):
            read_compressai_file(content[:length])
    with pytest.raises(BitstreamError, match="truncated or corrupted"):
        read_compressai_file(content + b"0")


@pytest.mark.parametrize(
    ("place", "form", "value", "message"),
    [
        (0, ">B", 1, "factorized-relu"),
        (0, ">B", len(models) - 1, "model number"),
        (0, ">B", 255, "model number 255"),
        (1, ">B", 0x20, "metric 2"),
        (1, ">B", 15, "quality 16"),
        (2, ">I", 0, "is not between 1 and"),
        (2, ">I", 2**31, "is not between 1 and"),
        (2, ">I", 700, "coded shape"),
        (10, ">B", 9, "9 bits"),
        (11, ">I", 2**31, "coded shape"),
        (19, ">I", 0, "0 strings"),
        (19, ">I", 2**31, "strings"),
        (23, ">I", 2**32 - 1, "truncated"),
    ],
)
def test_an_impossible_number_is_named(file, place, form, value, message):
    content = bytearray(file.read_bytes())
    struct.pack_into(form, content, place, value)
    file.write_bytes(content)
    with pytest.raises(BitstreamError, match=f"photo.bin.*{message}"):
        load_bitstream(file)
    status, _, errors = run("codec", "info", file)
    assert status == 1 and str(file) in errors


@pytest.mark.filterwarnings("ignore:files of CompressAI")
def test_corrupted_strings_end_in_an_error_or_a_finite_latent(image):
    codec = Codec(small_network(NAME), NAME, 1, "mse", "dequantized")
    content, random = written(image), np.random.default_rng(0)
    for _ in range(50):
        corrupted = bytearray(content)
        for place in random.integers(HEAD, len(content), 3):
            corrupted[place] = random.integers(256)
        try:
            received = codec.decompress(read_compressai_file(bytes(corrupted)))
        except BitstreamError:
            continue
        assert received.y_hat.isfinite().all()
