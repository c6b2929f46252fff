"""The command `python -m tests.fuzz`. The exit status is 1 if a case had a bad outcome."""

from __future__ import annotations

import argparse
import faulthandler
import os
import sys
import tempfile
from pathlib import Path

import torch

from cdl_d2.codec.latent import MAX_PIXELS_VARIABLE
from tests.fuzz.case import BAD, PIXELS, Kind, run_case
from tests.fuzz.kinds import KINDS
from tests.fuzz.report import Tally, head
from tests.fuzz.workers import new_folder, read_originals, run_cases


def main() -> int:
    description = "Read corrupted files."
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=description)
    parser.add_argument("--cases", type=int, default=1000, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=KINDS, action="append", help="default all of them")
    parser.add_argument("--case", type=int, help="this one alone, in this process")
    parser.add_argument("--keep", type=Path, help="folder for the file of --case")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds that a case may take")
    options = parser.parse_args()
    torch.set_num_threads(1)
    chosen = [KINDS[name] for name in options.kind or KINDS]
    if options.case is not None:
        return max(repeat(kind, options.seed, options.case, options.keep) for kind in chosen)
    rows, failed = [], 0
    for kind in chosen:
        tally = Tally(kind, options.seed)
        cases = range(options.cases)
        for result in run_cases(kind, options.seed, cases, options.workers, options.limit):
            if text := tally.add(result):
                print(text, file=sys.stderr, flush=True)
        failed += tally.failed
        rows.append(tally.row())
        print(rows[-1], file=sys.stderr, flush=True)
    print("\n".join([head(), *rows]))
    return 1 if failed else 0


def repeat(kind: Kind, seed: int, case: int, keep: Path | None) -> int:
    """Read the file of one case in this process, and print the outcome."""
    faulthandler.enable()
    os.environ[MAX_PIXELS_VARIABLE] = str(PIXELS)
    name, content = kind.content_of(seed, case)
    print(f"{kind.name}: {name} with {len(content)} bytes, of {len(kind.files[name])}")
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        (keep / f"{kind.name}-{case}").write_bytes(content)
    with tempfile.TemporaryDirectory() as folder:
        originals = read_originals(kind, Path(folder))
        result = run_case(kind, seed, case, new_folder(Path(folder)), originals)
    print(f"{result.outcome} {result.detail}".strip())
    return int(result.outcome in BAD)


if __name__ == "__main__":
    sys.exit(main())
