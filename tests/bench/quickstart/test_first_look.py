"""The quick start without training, on the images that come with the package."""

import re

from cdl_d2.codec import Bitstream
from tests.commands import output_of, refused


def test_it_compresses_detects_and_reports(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    printed = output_of("quickstart", "--output", "look")
    rows = re.findall(r"^(\S.*?)  +([\d.]+) +([\d.]+) ", printed, re.MULTILINE)
    assert len(rows) == 3 and all(float(box) > 20 for _, box, _ in rows)
    page = (tmp_path / "look" / "report.html").read_text()
    assert page.count("<img") == page.count('alt="val_') == 36 and page.count("<tr>") == 4
    assert len(list((tmp_path / "look" / "coded").iterdir())) == 12
    coded = Bitstream.load(tmp_path / "look" / "coded" / "val_0001.cdlz")
    assert coded.image_size == (256, 256)
    (tmp_path / "look" / "mine.txt").write_text("mine")
    assert "mine.txt" in refused("quickstart", "--output", "look")
