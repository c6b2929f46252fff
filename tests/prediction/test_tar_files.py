import bz2
import gzip
import io
import lzma
import tarfile

import numpy as np
import pytest
import zstandard
from PIL import Image

from cdl_d2.errors import CdlError
from cdl_d2.prediction import tar_files
from cdl_d2.prediction.reading import Unreadable, open_source
from cdl_d2.prediction.sources import find_sources

COMPRESS = {
    "tar": bytes,
    "tar.gz": gzip.compress,
    "tgz": gzip.compress,
    "tar.zst": zstandard.ZstdCompressor().compress,
    "tar.bz2": bz2.compress,
    "tar.xz": lzma.compress,
}
KEYS = ["000002", "000000", "000001"]  # not in the order of their names


def image(gray, form="PNG"):
    file = io.BytesIO()
    Image.new("L", (24, 16), gray).save(file, format=form)
    return file.getvalue()


def write_tar(path, members, suffix="tar"):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    path.write_bytes(COMPRESS[suffix](packed.getvalue()))
    return path


def grays_of(sources):
    return {name: int(open_source(source)[0, 0, 0]) for name, source in sources.items()}


@pytest.mark.parametrize("cache_bytes", [0, 2**26])
@pytest.mark.parametrize("suffix", COMPRESS)
def test_members_are_read_in_any_order_however_the_tar_is_compressed(
    tmp_path, monkeypatch, suffix, cache_bytes
):
    monkeypatch.setattr(tar_files, "CACHE_BYTES", cache_bytes)
    members = {f"{key}.png": image(int(key) + 7) for key in KEYS}
    sources = find_sources([str(write_tar(tmp_path / f"a.{suffix}", members, suffix))])
    expected = {f"{key}.png": int(key) + 7 for key in KEYS}
    assert grays_of(sources) == grays_of(dict(sorted(sources.items()))) == expected
    assert grays_of(dict(reversed(sources.items()))) == expected


@pytest.mark.parametrize("suffix", [suffix for suffix in COMPRESS if suffix != "tar"])
def test_a_damaged_compressed_tar_is_one_error_and_in_a_folder_reported(tmp_path, suffix):
    noise = np.random.default_rng(0).bytes(5000)
    path = write_tar(tmp_path / f"a.{suffix}", {"0.png": noise, "1.png": noise}, suffix)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 3], whole[:3], whole[:200] + b"x" * 50 + whole[250:]):
        path.write_bytes(content)
        try:
            sources = find_sources([str(path)])
        except CdlError as error:
            assert str(path) in str(error)
            (source,) = find_sources([str(tmp_path)]).values()
            assert isinstance(source, Unreadable)
        else:  # damage that only its own members have
            with pytest.raises(CdlError):
                grays_of(sources)


def test_several_extensions_of_a_key_are_several_files(tmp_path):
    members = {"a.json": b"{}", "a.cls": b"1", "a.jpg": image(9, "JPEG"), "a.png": image(5)}
    members |= {"._a.png": b"", "__MACOSX/a.png": b"", "./b.seg.png": image(3)}
    sources = find_sources([str(write_tar(tmp_path / "a.tar", members))])
    assert grays_of(sources) == {"a.jpg": 9, "a.png": 5, "b.seg.png": 3}


def test_one_key_in_several_tars_has_their_names_in_front(tmp_path):
    (tmp_path / "in").mkdir()
    shards = "s-0.tar", "s-1.tar.gz", "in/s-1.tar"
    for gray, name in enumerate(shards):
        write_tar(tmp_path / name, {"000.png": image(gray)}, name.partition(".")[2])
    expected = {"s-0/000.png": 0, "s-1/000.png": 1, "in/s-1/000.png": 2}
    assert grays_of(find_sources([str(tmp_path)])) == expected
    assert grays_of(find_sources([str(tmp_path / name) for name in shards])) == expected
    assert grays_of(find_sources([str(tmp_path / "s-0.tar")])) == {"000.png": 0}
    write_tar(tmp_path / "s-0.tar.gz", {"000.png": image(4)}, "tar.gz")
    both = grays_of(find_sources([f"{tmp_path}/s-0.*"]))
    assert both == {"s-0.tar/000.png": 0, "s-0.tar.gz/000.png": 4}


def test_a_member_of_a_compressed_tar_that_memory_cannot_hold_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(tar_files, "MAX_MEMBER_BYTES", 100)
    members = {"a.png": image(3), "b.png": image(3) + bytes(100)}
    sources = find_sources([str(write_tar(tmp_path / "a.tar.gz", members, "tar.gz"))])
    assert isinstance(sources["b.png"], Unreadable) and not isinstance(sources["a.png"], Unreadable)


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tar.zst"])
def test_no_member_after_a_damaged_header_is_lost_in_silence(tmp_path, suffix):
    path = write_tar(tmp_path / "a.tar", {f"{n}.png": image(n) for n in range(3)})
    content = bytearray(path.read_bytes())
    start = tar_files.list_members(path)["1.png"].offset - tarfile.BLOCKSIZE
    content[start] ^= 0xFF
    damaged = tmp_path / f"damaged.{suffix}"
    damaged.write_bytes(COMPRESS[suffix](bytes(content)))
    with pytest.raises(CdlError):
        tar_files.list_members(damaged)


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tar.zst", "tar.bz2"])
def test_tars_one_after_another_are_read_and_other_padding_is_left_out(tmp_path, suffix):
    parts = [write_tar(tmp_path / f"{n}", {f"{n}.png": image(n)}, suffix) for n in range(2)]
    contents = b"".join(part.read_bytes() for part in parts)
    for padding in (b"", bytes(700), b"no tar file " * 60):
        path = tmp_path / f"both.{suffix}"
        path.write_bytes(contents + padding)
        assert grays_of(find_sources([str(path)])) == {"0.png": 0, "1.png": 1}
