"""A zoo in a folder, and a server of its weights on this machine."""

import hashlib
import threading
from dataclasses import dataclass, field
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cdl_d2.model_zoo.card import Card, CardCodec, CardData, CardWeights

CONTENT = bytes(range(256)) * 40
SHA256 = hashlib.sha256(CONTENT).hexdigest()
CONFIG = "detection/small/bridge_mask_rcnn_small.yaml"


def make_card(name: str = "nuclei-bridge", url: str | None = None, **changes) -> Card:
    weights = CardWeights(url, len(CONTENT), SHA256)
    codec = CardCodec("tiny-bmshj2018-hyperprior", 2, "mse", "0123456789012345")
    values = {
        "name": name,
        "task": "detection",
        "backend": "detectron2",
        "config": CONFIG,
        "classes": ("nucleus",),
        "codec": codec,
        "data": CardData("nuclei", "CC0", 300),
        "command": "cdl train one\ncdl train two\n",
        "metrics": {"box AP": 38.3, "bits per pixel": 0.251},
        "seed": 1,
        "date": date(2026, 11, 24),
        "weights": weights,
        "overrides": ("MODEL.CODEC.QUALITY", 1, "SOLVER.STEPS", [3, 4]),
    }
    return Card(**values | changes)


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """An empty folder of a user's own models; the package has none."""
    monkeypatch.setenv("CDL_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("CDL_MIRROR", raising=False)
    monkeypatch.setattr("cdl_d2.model_zoo.catalog.PACKAGED_CARDS", tmp_path / "package" / "cards")
    monkeypatch.setattr(
        "cdl_d2.model_zoo.catalog.PACKAGED_WEIGHTS", tmp_path / "package" / "weights"
    )
    return tmp_path / "home"


def put(folder: Path, card: Card) -> Path:
    """Write a card into a folder of cards."""
    (folder / "cards").mkdir(parents=True, exist_ok=True)
    path = folder / "cards" / f"{card.name}.yaml"
    path.write_text(card.to_yaml(), encoding="utf-8")
    return path


@dataclass
class Served:
    """What the server gives, and how; `asked` are the ranges of the requests so far."""

    content: bytes = CONTENT
    status: int | None = None
    ranges: bool = True
    cut_after: int | None = None
    announced: int | None = None
    leads_to: str | None = None
    hold: threading.Event | None = None
    asked: list[str | None] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    url: str = ""


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        served = self.server.served
        served.asked.append(self.headers.get("Range"))
        served.paths.append(self.path)
        if served.hold:
            served.hold.wait(10)
        if served.status:
            self.send_error(served.status)
            return
        if served.leads_to:
            self.send_response(302)
            self.send_header("Location", served.leads_to)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        wanted, start = self.headers.get("Range"), 0
        if wanted and served.ranges:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(served.content):
                self.send_error(416)
                return
        rest = served.content[start:]
        self.send_response(206 if start else 200)
        if start:
            end = len(served.content)
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{end}")
        if served.announced != -1:
            self.send_header("Content-Length", str(served.announced or len(rest)))
        self.end_headers()
        self.wfile.write(rest[: served.cut_after])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def served(monkeypatch):
    """A server; its behaviour can be changed while it runs."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.served = Served(url=f"http://127.0.0.1:{server.server_port}/files/nuclei.safetensors")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server.served
    server.shutdown()
    server.server_close()
    thread.join()
