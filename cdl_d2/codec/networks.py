"""How the network of a codec is made, or rebuilt from its weights."""

from __future__ import annotations

import torch
from torch import nn

from cdl_d2.codec.architectures import (
    GENERATIVE,
    TINY_CHANNELS,
    TINY_PREFIX,
    VARIABLE_RATE,
    registered_codec,
)
from cdl_d2.codec.weights_file import is_table, weights_of, without_wrapper
from cdl_d2.errors import CdlError

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


def network_from_weights(name: str, quality: int, state_dict: dict[str, torch.Tensor]) -> nn.Module:
    """A network of the size that its weights have, or that a registered codec gives it; its coding
    tables are empty.

    Tables of a file are not read, since they may be of other weights, or hostile.

    Raises:
        CdlError: if the weights do not belong to this architecture, or are not finite.
    """
    from compressai.zoo.pretrained import load_pretrained

    own, architecture = registered_codec(name), name.removeprefix(TINY_PREFIX)
    state_dict = without_wrapper(state_dict)
    if not own:
        state_dict = _with_empty_tables(load_pretrained(state_dict))
    try:
        for key, tensor in state_dict.items():
            _check_tensor(key, tensor)
        if own:
            return _load_without_tables(own.new_network(quality), state_dict)
        z_step = {"vr_entbttlnck": True} if "gayn2zqstep.0.weight" in state_dict else {}
        return _network_class(architecture).from_state_dict(state_dict, **z_step)
    except CdlError:
        raise
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CdlError(f"the weights do not fit the architecture {architecture}: {reason}") from (
            error
        )


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


def _with_empty_tables(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """CompressAI insists on entropy-coding tables; the coders make them anew."""
    for module, extra in (
        ("entropy_bottleneck", ()),
        ("global_bottleneck", ()),
        ("gaussian_conditional", ("scale_table",)),
    ):
        if any(key.startswith(f"{module}.") for key in state_dict):
            for table in ("_quantized_cdf", "_offset", "_cdf_length"):
                state_dict[f"{module}.{table}"] = torch.IntTensor()
            for table in extra:
                state_dict[f"{module}.{table}"] = torch.Tensor()
    return state_dict


def _load_without_tables(network: nn.Module, state_dict: dict[str, torch.Tensor]) -> nn.Module:
    """Load all weights of a network; coding tables are derived from them.

    Raises:
        RuntimeError: as nn.Module.load_state_dict.
    """
    wanted = weights_of(network)
    weights = {k: v for k, v in state_dict.items() if k in wanted or not is_table(k)}
    _, unexpected = nn.Module.load_state_dict(network, weights, strict=False)
    lacking = [key for key in wanted if key not in weights]
    if lacking or unexpected:
        raise RuntimeError(f"they lack {lacking[:3]} or have too much, {unexpected[:3]}")
    return network
