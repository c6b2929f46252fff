import pytest
import torch
from torchvision.io import write_png

from cdl_d2.bench.rate_distortion import COLUMNS, average, measure_image, plot_rate_distortion
from cdl_d2.codec.io.image_files import read_image

IMAGE = torch.rand(3, 200, 250, generator=torch.Generator().manual_seed(1))


def test_each_rate_is_over_the_pixels_that_its_name_says(codec, tmp_path):
    path = tmp_path / "a.png"
    write_png((IMAGE * 255).byte(), str(path))
    stream, point = codec.compress(read_image(path) / 255), measure_image(codec, path)
    bits, estimated = 8 * len(stream.to_bytes()), codec.decompress(stream).total_bits
    assert point["bpp"] == bits / (200 * 250)
    assert point["bpp, coded"] == bits / (256 * 256)
    assert point["estimated"] == estimated / (200 * 250)
    assert point["estimated, coded"] == estimated / (256 * 256)


def test_an_average_is_over_the_images_that_have_a_figure():
    rows = (1, 2, 3, 4, 5, None), (3, 4, 5, 6, 7, 0.5), (2, 3, 4, 5, 6, 0.5)
    small, large, mean = (dict(zip(COLUMNS, row, strict=True)) for row in rows)
    assert average([small, large]) == mean
    assert average([small]) == small


def test_a_codec_has_a_curve_of_psnr_and_one_of_ms_ssim_in_the_order_of_its_rate():
    rows = [
        {"codec": name, "bpp": bpp, "PSNR (dB)": 20 + 10 * bpp, "MS-SSIM": similar}
        for name, bpp, similar in [("a", 0.4, 0.99), ("a", 0.2, 0.9), ("b", 0.3, None)]
    ]
    psnr, ms_ssim = plot_rate_distortion(rows).axes
    assert psnr.lines[0].get_xydata().tolist() == [[0.2, 22.0], [0.4, 24.0]]
    assert ms_ssim.lines[0].get_ydata() == pytest.approx([10, 20])
    assert len(psnr.lines) == 2 and len(ms_ssim.lines[1].get_xdata()) == 0
