"""Networks of codecs, and their weights: local files, this package's or CompressAI's zoo's."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import nn

from cdl_d2.codec.compressai_import import import_compressai
from cdl_d2.codec.entropy.coders import CODERS
from cdl_d2.codec.io.state_dicts import State, fit_names, is_table, load_into
from cdl_d2.codec.io.weights_file import load_state_dict
from cdl_d2.codec.registry import get_architecture
from cdl_d2.download import download_file
from cdl_d2.errors import CdlError

# Entries whose shapes give the widths of a network.
SIZES = ("g_a.0.weight", "g_a.0.conv1.weight", "g_a.6.weight", "entropy_bottleneck.quantiles")
# Submodules that some entropy models have: weights of others are not those of this architecture.
ENTROPY_PARTS = {part for _, coder in CODERS for part in coder.parts} | {"gayn2zqstep"}
PACKAGED_WEIGHTS = Path(__file__).parent / "weights"
ADVICE = "train the codec, and give the path of the codec's weights"
UNTRAINED = "untrained"  # in the place of a path of weights
MAX_SIDE = 2048  # of a tensor of weights; the zoo's largest is 1280


def load_codec_network(name: str, quality: int, metric: str, weights: str = "") -> nn.Module:
    """Build a network with trained weights; it leaves the random state as it is.

    Args:
        name: registered name of the codec.
        quality: one of its qualities.
        metric: `mse` or `ms-ssim`.
        weights: path of a local file; empty for the zoo's or packaged weights; `untrained` for
            random weights, the same every time.

    Raises:
        CdlError: for an unknown name, quality or metric, or unreadable weights.
        FileNotFoundError: if the weights are missing.
    """
    architecture = get_architecture(name)
    architecture.check_choice(quality, metric, own_weights=bool(weights))
    import_compressai()
    with torch.random.fork_rng(devices=[]):  # new networks have random weights
        if weights == UNTRAINED:
            torch.default_generator.manual_seed(0)  # leaves the generators of other devices alone
            return architecture.new_network(quality)
        path = weights_path(name, quality, metric, weights)
        return network_from_weights(name, quality, load_state_dict(path), path)


def network_from_weights(
    name: str, quality: int, state_dict: State, source: str | Path = "the file"
) -> nn.Module:
    """Build a network of the widths that its weights have, with empty coding tables.

    Tables in a file are not read: they may be those of other weights, or malicious.

    Args:
        name: registered name of the codec.
        quality: quality, for codecs whose widths are not read from weights.
        state_dict: the weights.
        source: path of the weights, for messages.

    Raises:
        CdlError: if the weights are not those of this architecture, or not finite.
    """
    architecture = get_architecture(name)
    try:
        for key, tensor in state_dict.items():
            if not is_table(key):
                _check_tensor(key, tensor)
        sizes = fit_names(state_dict, SIZES)
        network = architecture.network_like(sizes, quality)
        parts = {key.split(".")[0] for key in network.state_dict()}
        load_into(network, state_dict, source, strict_modules=parts | ENTROPY_PARTS)
        return network
    except (
        *(AttributeError, CdlError, IndexError, KeyError),
        *(RuntimeError, TypeError, ValueError),
    ) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if isinstance(error, KeyError):
            reason = f"{source} has no entry {reason}"
        raise CdlError(f"the weights do not fit the architecture {name}: {reason}") from (error)


def _check_tensor(key: str, tensor: torch.Tensor) -> None:
    if not torch.isfinite(tensor).all():
        raise CdlError(f"the weights {key} are not finite: the file is corrupted")
    if max(tensor.shape, default=0) > MAX_SIDE:  # they determine the network's size
        raise CdlError(f"the weights {key}, {tuple(tensor.shape)}, are larger than any codec's")


def weights_path(name: str, quality: int, metric: str, weights: str = "") -> Path:
    """Return the path of the weights of a codec; download them if they are CompressAI's.

    Raises:
        FileNotFoundError: if the file does not exist, or cannot be downloaded.
        CdlError: if the downloaded file's hash is not the one in its name.
    """
    if weights:
        return Path(weights)
    if get_architecture(name).packaged is not None:
        path = PACKAGED_WEIGHTS / f"{name}-{quality}.safetensors"
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing from this installation: {ADVICE}")
        return path
    return download(zoo_url(name, quality, metric))


def zoo_url(name: str, quality: int, metric: str) -> str:
    """Return the address of a codec's weights.

    Raises:
        FileNotFoundError: if there are none.
    """
    weights_url = get_architecture(name).weights_url
    url = weights_url(quality, metric) if weights_url else None
    if url is None:
        raise FileNotFoundError(
            f"there are no weights of {name} quality {quality} ({metric}): {ADVICE}"
        )
    return url


def download(url: str, folder: Path | None = None) -> Path:
    """Download `url` to `folder` (default: torch.hub's) unless it is there, and verify its hash.

    The name ends in a dash and the first eight hexadecimal digits of the file's SHA-256.

    Raises:
        FileNotFoundError: if the file cannot be downloaded.
        CdlError: if the name has no hash, or the file another one.
        OSError: if the folder cannot be written to.
    """
    path = (folder or Path(torch.hub.get_dir()) / "checkpoints") / Path(url).name
    match = re.search(r"-([0-9a-f]{8,64})\.", path.name)
    if match is None:
        raise CdlError(f"{path.name} has no hash in its name, so it cannot be verified")
    advice = (
        "download it elsewhere and give its path as the codec's weights, or use the codec of this "
        "package, tiny-bmshj2018-hyperprior"
    )
    download_file(url, path, match[1], advice=advice)
    return path
