"""Search and reading of config files."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode as CN
from detectron2.config import get_cfg
from detectron2.modeling import META_ARCH_REGISTRY

from cdl_d2.codec import CodecChoice
from cdl_d2.codec.latent import current_quantization
from cdl_d2.d2.config import PROJECT_ADVICE, add_cdl_config, leaves
from cdl_d2.d2.config_text import read_based
from cdl_d2.d2.detectron2_zoo import DETECTRON2_ZOO
from cdl_d2.d2.lazy_config import reject_lazy_config
from cdl_d2.errors import CdlError
from cdl_d2.packaged import CONFIGS, matching_configs, packaged_configs


def find_config(name: str | Path) -> Path:
    """Return the file of a config.

    Args:
        name: a path from the working folder; or a name relative to the configs of this package or
            of Detectron2's model zoo, or the end of such a name if it is unique, such as the file
            name.

    Raises:
        FileNotFoundError: if there is no such file; suggests similar names.
        CdlError: if several configs have this name.
    """
    path, folders = Path(name), (CONFIGS, DETECTRON2_ZOO)
    for file in (path, *(folder / path for folder in folders)):
        if file.is_file():
            return file
    target, configs = path.resolve(), CONFIGS.resolve()
    if target.is_relative_to(configs):
        path = target.relative_to(configs)
    elif path.is_absolute() or path.is_dir():
        raise _no_config_in_folder(path)
    elif path.parts[0] != "configs" and path.parent != Path() and path.parent.is_dir():
        raise _no_config_in_folder(path)  # not in configs/, which other projects have, too
    for folder in folders:
        matches = matching_configs(path, folder)
        if len(matches) > 1:
            raise CdlError(f"{len(matches)} configs are called {name}: {', '.join(matches)}")
        if matches:
            return folder / matches[0]
    names = [config for root in folders for config in packaged_configs(path.suffix, root)]
    raise FileNotFoundError(
        f"there is no config {name} in {Path.cwd()}, in {CONFIGS}, or in {DETECTRON2_ZOO}"
        f"{_nearest(path, names)}"
    )


def _no_config_in_folder(path: Path) -> FileNotFoundError:
    """Return the error of a missing file in a user's folder, with the configs in it."""
    folder = path if path.is_dir() else path.parent
    inside = sorted(file.name for file in folder.glob("*.yaml"))
    content = f"has {', '.join(inside[:5])}" if inside else "has no .yaml file"
    return FileNotFoundError(f"there is no config {path}: {folder} {content}")


def _nearest(path: Path, names: Sequence[str]) -> str:
    by_file = {Path(name).name: name for name in reversed(names)}
    by_path = get_close_matches(path.as_posix(), names)
    near = [*by_path, *(by_file[file] for file in get_close_matches(path.name, by_file))]
    return f": did you mean {' or '.join(dict.fromkeys(near))}?" if near else ""


def read_config(path: str | Path, overrides: Sequence[object] = ()) -> CN:
    """Read a config file over Detectron2's and this package's defaults, without running code.

    The default of OUTPUT_DIR is `./output/` and the file's name without `.yaml`. INPUT.DOMAIN is
    `image` for a model of Detectron2, whatever the file has. A teacher's config beside the file
    gets its full path, and so do weights of the codec that are found beside it only.

    Args:
        path: a file, or a name as find_config takes it.
        overrides: KEY VALUE pairs.

    Raises:
        FileNotFoundError: if the file, or one that it is based on, does not exist.
        CdlError: for a file that is no config, a key that does not exist, or a wrong value.
    """
    path = find_config(path)
    reject_lazy_config(path)
    cfg = get_cfg()
    add_cdl_config(cfg)
    cfg = _Config(cfg)
    cfg.OUTPUT_DIR = f"./output/{path.stem}"
    cfg.INPUT.DOMAIN = ""  # tells a missing key
    try:
        cfg.merge_from_file(str(path))
    except (TypeError, AttributeError) as error:
        raise CdlError(f"config {path}: it, or its _BASE_, is no mapping of keys") from error
    except RecursionError as error:
        raise CdlError(f"config {path}: it nests too deeply") from error
    except (AssertionError, KeyError, ValueError) as error:
        if isinstance(error, CdlError):
            raise
        raise CdlError(f"config {path}: {_reason(error, cfg)}") from error
    cfg = CN(cfg)
    vars(cfg)["file"] = str(path)  # for messages; no key of the config
    try:
        cfg.merge_from_list(_current_overrides(overrides))
    except (AssertionError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise CdlError(f"config {path}, overrides: {_reason(error, cfg)}") from error
    cfg.INPUT.DOMAIN = _input_domain(cfg, path)
    codec = cfg.MODEL.CODEC
    choice = CodecChoice(codec.NAME, codec.QUALITY, weights=codec.WEIGHTS)
    codec.WEIGHTS = choice.beside(path.parent).weights
    teacher = path.parent / cfg.MODEL.TEACHER.CONFIG_FILE
    if teacher.is_file():
        cfg.MODEL.TEACHER.CONFIG_FILE = str(teacher.absolute())
    return cfg


def _reason(error: Exception, cfg: CN) -> str:
    """Return an error's text, with similar keys if a key does not exist."""
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    if not (unknown := re.match(r"Non-existent (?:config )?key: (\S+)", text)):
        return text
    near = get_close_matches(unknown[1], leaves(cfg))
    hint = f": did you mean {' or '.join(near)}?" if near else ""
    return f"{text}{hint} ({PROJECT_ADVICE})"


_TRUSTED: set[Path] = set()


def trust_program(name: str | Path) -> None:
    """Allow this process to run a LazyConfig, a Python file, as a teacher; if there is one.

    Call it for a name that the user gave on the command line or in Python, never for one in a
    config.
    """
    with suppress(FileNotFoundError):
        _TRUSTED.add(find_config(name).resolve())


def is_trusted(path: Path) -> bool:
    """Return True if a Python file may be run: an installed config, or one of trust_program."""
    path = path.resolve()
    is_installed = any(path.is_relative_to(root.resolve()) for root in (CONFIGS, DETECTRON2_ZOO))
    return is_installed or path in _TRUSTED


class _Config(CN):
    """Config whose files are read by read_based."""

    @classmethod
    def load_yaml_with_base(cls, filename: str, allow_unsafe: bool = False) -> dict[str, Any]:
        return _current_keys(read_based(Path(filename)))


def _current_keys(values: dict[str, Any]) -> dict[str, Any]:
    """Rename keys that a config of version 0.1 has under another name, in place."""
    model = values.get("MODEL")
    codec = model.get("CODEC") if isinstance(model, dict) else None
    if isinstance(codec, dict) and "MEANING" in codec:
        codec["QUANTIZATION"] = current_quantization(codec.pop("MEANING"))
    return values


def _current_overrides(overrides: Sequence[object]) -> list[object]:
    """Return KEY VALUE pairs with the names that `_current_keys` gives."""
    pairs = list(overrides)
    for i in range(0, len(pairs) - 1, 2):
        if pairs[i] == "MODEL.CODEC.MEANING":
            pairs[i : i + 2] = "MODEL.CODEC.QUANTIZATION", current_quantization(pairs[i + 1])
    return pairs


def _input_domain(cfg: CN, path: Path) -> str:
    """Return INPUT.DOMAIN, by default `image`.

    Detectron2's own models read images only, though version 0.1.0 wrote `latent` into their
    configs.
    """
    name, domain = cfg.MODEL.META_ARCHITECTURE, cfg.INPUT.DOMAIN
    is_registered = name in META_ARCH_REGISTRY
    if is_registered and META_ARCH_REGISTRY.get(name).__module__.startswith("detectron2."):
        return "image"
    if not domain:
        logging.getLogger(__name__).warning(
            f"config {path} has no INPUT.DOMAIN: image is assumed (version 0.1.0 assumed latent)"
        )
    return domain or "image"
