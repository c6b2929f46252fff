"""Kill the bulk encoder at random moments, again and again, and compare the final store.

Each trial starts a process that encodes a small folder, sends it SIGKILL after a random time, and
goes on like this until a process ends by itself; the store must then equal an uninterrupted one,
byte for byte:
    python -m tests.data.store.kill_encoding --kills 1000
"""

import argparse
import multiprocessing
import os
import random
import shutil
import signal
import tempfile
import time
from pathlib import Path

import torch
from torchvision.io import write_png

from cdl_d2.codec import Codec
from cdl_d2.data import Plan, Variant
from cdl_d2.data.store.encoding import encode_shards, missing_shards
from cdl_d2.data.store.latent_store import close_store


def make_photos(folder: Path, count: int) -> tuple[str, ...]:
    folder.mkdir(parents=True)
    rng = torch.Generator().manual_seed(0)
    for i in range(count):
        pixels = torch.randint(0, 256, (3, 48, 64), generator=rng, dtype=torch.uint8)
        write_png(pixels, str(folder / f"{i:03d}.png"))
    return tuple(f"{i:03d}.png" for i in range(count))


def encode(codec: Codec, plan: Plan, photos: Path, output: Path) -> None:
    torch.set_num_threads(1)
    plan.save(output)
    shards = missing_shards(output, plan)
    for _ in encode_shards(codec, plan, photos, output, shards, workers=0):
        pass
    close_store(output, plan)


def content_of(folder: Path) -> dict[str, bytes]:
    """The files of a store, without the temporary ones that a killed process leaves."""
    return {p.name: p.read_bytes() for p in sorted(folder.glob("[!.]*"))}


def kill_until(kills: int, seed: int = 0, report=print) -> None:
    """Go on until so many processes were killed.

    Raises:
        AssertionError: if a store differs from the uninterrupted one.
    """
    torch.set_num_threads(1)
    rng, context = random.Random(seed), multiprocessing.get_context("fork")
    codec = Codec.load("tiny-bmshj2018-hyperprior", 2)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        names = make_photos(root / "photos", 12)
        plan = Plan(codec.identity, "arrays", (Variant(),), names, shard_size=2)
        start = time.monotonic()
        encode(codec, plan, root / "photos", root / "whole")
        whole, duration = content_of(root / "whole"), time.monotonic() - start
        killed = trials = 0
        while killed < kills:
            output, patience = root / "killed", duration / 2
            while True:
                arguments = codec, plan, root / "photos", output
                process = context.Process(target=encode, args=arguments)
                process.start()
                process.join(rng.uniform(0, patience))
                patience *= 1.5  # or a slow machine would never finish a shard
                if process.exitcode is None:
                    os.kill(process.pid, signal.SIGKILL)
                process.join()
                if process.exitcode != -signal.SIGKILL:
                    break
                killed += 1
            assert process.exitcode == 0, f"the encoder ended with {process.exitcode}"
            assert content_of(output) == whole, "the store differs from the uninterrupted one"
            shutil.rmtree(output)
            trials += 1
            report(f"{killed} kills, {trials} stores finished, all equal")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=1000)
    kill_until(parser.parse_args().kills)
