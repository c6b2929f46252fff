"""Images and label maps of each format."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from random import Random
from typing import Any

import torch
from PIL import Image

from cdl_d2.codec.io.image_files import read_image, read_image_size, read_label_map
from tests.fuzz.mutations import mutate_bytes

OPTIONS = {
    "JPEG": [{}, {"progressive": True, "quality": 30}],
    "PNG": [{}, {"interlace": 1, "compress_level": 0}],
    "WEBP": [{}, {"lossless": True}],
    "BMP": [{}],
    "TIFF": [{"compression": c} for c in ("raw", "tiff_lzw", "tiff_adobe_deflate", "jpeg")],
    "GIF": [{}],
    "PPM": [{}],
}


def _picture(mode: str) -> Image.Image:
    smooth = Image.radial_gradient("L").resize((40, 28))
    noise = Image.frombytes("L", (40, 28), Random(0).randbytes(40 * 28))
    return Image.merge("RGB", (smooth, noise, smooth.rotate(90))).convert(mode)


def make_images() -> dict[str, bytes]:
    """Return images in each format, with a few options and layouts."""
    images = {}
    for form, options in OPTIONS.items():
        modes = {"PNG": ("RGB", "P", "LA", "1"), "TIFF": ("RGB", "L"), "GIF": ("P",)}
        for mode in modes.get(form, ("RGB", "L")):
            for number, option in enumerate(options):
                file, picture = io.BytesIO(), _picture(mode)
                exif = Image.Exif()
                exif[0x0112] = 6
                with_exif = {"exif": exif} if form in ("JPEG", "PNG", "WEBP", "TIFF") else {}
                picture.save(file, format=form, **option, **with_exif)
                images[f"{form}-{mode}-{number}"] = file.getvalue()
    file = io.BytesIO()
    _picture("RGB").save(file, format="GIF", save_all=True, append_images=[_picture("L")])
    return images | {"GIF-frames": file.getvalue(), "PPM-text": _text_ppm()}


def _text_ppm() -> bytes:
    numbers = " ".join(str(value) for value in _picture("RGB").resize((4, 3)).tobytes())
    return f"P3\n# a comment\n4 3\n255\n{numbers}\n".encode()


def read_picture(name: str, content: bytes, folder: Path) -> Any:
    """Return the pixels of an image and of a label map."""
    (folder / "a.png").write_bytes(content)
    pixels = read_image(folder / "a.png")
    assert pixels.shape[0] == 3
    assert torch.equal(pixels, read_image(content))
    assert torch.equal(pixels, read_image(Image.open(folder / "a.png")))
    assert tuple(pixels.shape[1:]) == read_image_size(folder / "a.png")
    return pixels, read_label_map(folder / "a.png")


def mutate_image(rng: Random, content: bytes) -> bytes:
    """Change bytes, or chunks of a PNG with matching checksums."""
    if content[:4] != b"\x89PNG" or rng.random() < 0.4:
        return mutate_bytes(rng, content)
    chunks, start = [], 8
    while start < len(content):
        (length,) = struct.unpack_from(">I", content, start)
        chunks.append((content[start + 4 : start + 8], content[start + 8 : start + 8 + length]))
        start += 12 + length
    for _ in range(rng.randint(1, 2)):
        index = rng.randrange(len(chunks))
        kind, body = chunks[index]
        if kind == b"IDAT" and rng.random() < 0.5:
            body = zlib.compress(mutate_bytes(rng, zlib.decompress(body)) * rng.choice([1, 1, 99]))
        elif rng.random() < 0.2:
            kind = rng.choice([b"zTXt", b"iCCP", b"tRNS", b"acTL", b"fdAT", b"PLTE", b"IDAT"])
        else:
            body = mutate_bytes(rng, body)
        chunks[index] = kind, body
        if kind == b"IDAT":
            break
    packed = [
        struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b)) for k, b in chunks
    ]
    return content[:8] + b"".join(packed)
