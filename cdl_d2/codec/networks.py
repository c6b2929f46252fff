"""How the network of a codec is made, or rebuilt from its weights."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from cdl_d2.codec.architectures import (
    GENERATIVE,
    TINY_CHANNELS,
    TINY_PREFIX,
    VARIABLE_RATE,
    registered_codec,
)
from cdl_d2.codec.io.state_dicts import State, fit_names, is_table, load_into
from cdl_d2.errors import CdlError

# Entries that say how wide a network is.
SIZES = ("g_a.0.weight", "g_a.0.conv1.weight", "g_a.6.weight", "entropy_bottleneck.quantiles")
# Parts of some architectures only: without them the weights of these are not those of another.
OTHER_PARTS = {
    *("h_a", "h_s", "gaussian_conditional", "context_prediction", "entropy_parameters"),
    *("global_bottleneck", "Gain", "QuantABCD", "gayn2zqstep", "latent_codec"),
}
MAX_SIDE = 2048  # of a tensor of weights; the largest of the zoo is 1280


def new_network(name: str, quality: int) -> nn.Module:
    """An untrained network; `tiny-<architecture>` gives the narrow variant."""
    if own := registered_codec(name):
        return own.new_network(quality)
    architecture = name.removeprefix(TINY_PREFIX)
    build, tiny = _network_class(architecture), architecture != name
    if architecture in GENERATIVE:
        return build(**build.TINY) if tiny else build()
    if architecture in VARIABLE_RATE:
        from compressai.zoo.image_vbr import cfgs

        sizes = tuple(TINY_CHANNELS.values()) if tiny else cfgs[name]
        z_step = {} if architecture == "mbt2018-vbr" else {"vr_entbttlnck": True}
        return build(*sizes, **z_step)
    if not tiny:
        from compressai.zoo.image import cfgs

        return build(*cfgs[name][quality])
    if architecture.startswith("cheng2020"):  # one width serves for N and M there
        return build(TINY_CHANNELS["N"])
    return build(**TINY_CHANNELS)


def network_from_weights(
    name: str, quality: int, state_dict: State, source: str | Path = "the file"
) -> nn.Module:
    """Build a network of the size that its weights have, or that a registered codec gives it; its
    coding tables are empty.

    Tables of a file are not read, since they may be of other weights, or hostile.

    Args:
        source: name of the weights' file, for messages.

    Raises:
        CdlError: if the weights do not belong to this architecture, or are not finite.
    """
    own, architecture = registered_codec(name), name.removeprefix(TINY_PREFIX)
    try:
        for key, tensor in state_dict.items():
            if not is_table(key):
                _check_tensor(key, tensor)
        sizes = fit_names(state_dict, SIZES)
        network = own.network_like(sizes, quality) if own else _network_like(architecture, sizes)
        parts = {key.split(".")[0] for key in network.state_dict()}
        load_into(network, state_dict, source, refused=parts | OTHER_PARTS)
        return network
    except (
        *(AttributeError, CdlError, IndexError, KeyError),
        *(RuntimeError, TypeError, ValueError),
    ) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if isinstance(error, KeyError):
            reason = f"{source} has no entry {reason}"
        raise CdlError(f"the weights do not fit the architecture {architecture}: {reason}") from (
            error
        )


def _network_like(architecture: str, state: State) -> nn.Module:
    """Build a network of the width that some weights have."""
    build = _network_class(architecture)
    if architecture in GENERATIVE:
        return build(**build.sizes_of(state))
    if architecture.startswith("cheng2020"):  # one width serves for N and M there
        return build(len(state["g_a.0.conv1.weight"]))
    z_step = {"vr_entbttlnck": True} if "gayn2zqstep.0.weight" in state else {}
    return build(len(state["g_a.0.weight"]), len(state["g_a.6.weight"]), **z_step)


def _check_tensor(key: str, tensor: torch.Tensor) -> None:
    if not torch.isfinite(tensor).all():
        raise CdlError(f"the weights {key} are not finite: the file is damaged")
    if max(tensor.shape, default=0) > MAX_SIDE:  # networks are made as wide as these say
        raise CdlError(f"the weights {key}, {tuple(tensor.shape)}, are larger than any codec's")


def _network_class(architecture: str) -> type[nn.Module]:
    if architecture in GENERATIVE:
        from cdl_d2.codec.generative.networks import NETWORKS

        return NETWORKS[architecture]
    if architecture in VARIABLE_RATE:
        from compressai.zoo.image_vbr import model_architectures
    else:
        from compressai.zoo.image import model_architectures

    return model_architectures[architecture]
