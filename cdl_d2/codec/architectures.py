"""Which image codecs exist, and how a network of each is made or rebuilt from its weights.

A codec is named as CompressAI names it, or is one of `generative/`; `tiny-...` is the same
architecture with 32 inner channels and 192 latent channels, whose weights can be in this package.
"""

from __future__ import annotations

import torch
from torch import nn

from cdl_d2.errors import CdlError

COMPRESSAI_ARCHITECTURES = {
    "bmshj2018-factorized": range(1, 9),
    "bmshj2018-hyperprior": range(1, 9),
    "mbt2018-mean": range(1, 9),
    "mbt2018": range(1, 9),
    "cheng2020-anchor": range(1, 7),
    "cheng2020-attn": range(1, 7),
}
# Qualities are the paper's 0.048, 0.096, 0.175 and 0.254 bits per pixel.
GENERATIVE = {"zhang2022": range(1, 5), "zhang2022-layered": range(1, 5)}
LAYERED = ("zhang2022-layered",)  # with a global vector behind the channels of the latent
ARCHITECTURES = {**COMPRESSAI_ARCHITECTURES, **GENERATIVE}
TINY_PREFIX = "tiny-"
TINY_CHANNELS = {"N": 32, "M": 192}
TINY_QUALITIES = {"tiny-bmshj2018-hyperprior": range(3)}
MAX_SIDE = 2048  # of a tensor of weights; the largest of the zoo is 1280
METRICS = ("mse", "ms-ssim")


def check_codec_choice(name: str, quality: int, metric: str, own_weights: bool = False) -> None:
    """Raise CdlError, naming the value and what is possible, unless the choice exists.

    Args:
        own_weights: the weights come from the user, not from this package or a zoo.
    """
    tiny = {TINY_PREFIX + k: range(v.stop) for k, v in ARCHITECTURES.items()}
    if not own_weights:
        tiny |= TINY_QUALITIES
    qualities = {**ARCHITECTURES, **tiny}.get(name)
    if qualities is None:
        known = ", ".join([*ARCHITECTURES, *tiny])
        raise CdlError(f"codec name {name!r} is not one of {known}")
    if quality not in qualities:
        raise CdlError(f"quality {quality} is not one of {_span(qualities)} for {name}")
    metrics = METRICS[:1] if name in TINY_QUALITIES and not own_weights else METRICS
    if metric not in metrics:
        raise CdlError(f"metric {metric!r} is not one of {', '.join(metrics)} for {name}")


def _span(qualities: range) -> str:
    return f"{qualities.start}..{qualities.stop - 1}"


def new_network(name: str, quality: int) -> nn.Module:
    """An untrained network; `tiny-<architecture>` gives the narrow variant."""
    architecture = name.removeprefix(TINY_PREFIX)
    build, tiny = _network_class(architecture), architecture != name
    if architecture in GENERATIVE:
        return build(**build.TINY) if tiny else build()
    if not tiny:
        from compressai.zoo.image import cfgs

        return build(*cfgs[name][quality])
    if architecture.startswith("cheng2020"):  # one width serves for N and M there
        return build(TINY_CHANNELS["N"])
    return build(**TINY_CHANNELS)


def network_from_weights(name: str, state_dict: dict[str, torch.Tensor]) -> nn.Module:
    """A network of the size that its weights have; its coding tables are empty.

    Tables of a file are not read, since they may be of other weights, or hostile.

    Raises:
        CdlError: if the weights do not belong to this architecture, or are not finite.
    """
    from compressai.zoo.pretrained import load_pretrained

    architecture = name.removeprefix(TINY_PREFIX)
    state_dict = _with_empty_tables(load_pretrained(state_dict))
    try:
        for key, tensor in state_dict.items():
            _check_tensor(key, tensor)
        return _network_class(architecture).from_state_dict(state_dict)
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
