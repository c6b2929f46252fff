"""Networks of codecs, built from trained weights."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from cdl_d2.codec.entropy.coders import CODERS
from cdl_d2.codec.io.state_dicts import State, fit_names, is_table, load_into
from cdl_d2.codec.io.weights_file import load_state_dict
from cdl_d2.codec.registry import get_architecture
from cdl_d2.codec.zoo import weights_path
from cdl_d2.errors import CdlError

# Entries whose shapes give the widths of a network.
SIZES = ("g_a.0.weight", "g_a.0.conv1.weight", "g_a.6.weight", "entropy_bottleneck.quantiles")
# Submodules that some entropy models have: weights of others are not those of this architecture.
ENTROPY_PARTS = {part for _, coder in CODERS for part in coder.parts} | {"gayn2zqstep"}
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
