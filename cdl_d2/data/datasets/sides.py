"""Names that tell left from right, which mirroring an image swaps."""

from __future__ import annotations

import re
from collections.abc import Sequence

SIDES = (("left", "right"), ("l", "r"))


def pair_sides(names: Sequence[str]) -> list[tuple[str, str]]:
    """Return the pairs of names that differ by left and right only, such as `l_eye` and `r_eye`."""
    by_text, pairs = {name.lower(): name for name in names}, []
    for name in names:
        for left, right in SIDES:
            mirrored = re.sub(rf"(?<![a-z]){left}(?![a-z])", right, name.lower())
            if mirrored != name.lower() and mirrored in by_text:
                pairs.append((name, by_text[mirrored]))
    return pairs
