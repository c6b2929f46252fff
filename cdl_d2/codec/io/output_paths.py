"""Names of output files, checked for collisions before anything is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from cdl_d2.errors import CdlError


def output_paths(
    names: Mapping[Path, Path],
    output: Path | None,
    suffixes: Sequence[str],
    force: bool = False,
) -> dict[Path, Path]:
    """Return the output file of each source.

    Args:
        names: by source file, its name relative to the output folder.
        output: folder; None to write beside each source.
        suffixes: suffix of the output, then those of files that may be written with it.
        force: whether existing files may be replaced.

    Raises:
        CdlError: if two sources would be written to the same file.
        FileExistsError: if an output exists, unless `force`.
        NotADirectoryError: if the output folder is a file.
    """
    if output and output.exists() and not output.is_dir():
        raise NotADirectoryError(f"the output {output} is a file, not a folder")
    targets = {
        source: (output / name if output else source).with_suffix(suffixes[0])
        for source, name in names.items()
    }
    owners: dict[Path, Path] = {}
    for source, target in targets.items():
        for path in map(target.with_suffix, suffixes):
            path = path.parent.resolve() / path.name  # whatever links lead to its folder
            if owners.setdefault(path, source) != source:
                raise CdlError(f"{owners[path]} and {source} would both be {path}: rename one")
    existing = [path for path in owners if path.exists()]
    if existing and not force:
        raise FileExistsError(f"{existing[0]} exists already")
    return targets
