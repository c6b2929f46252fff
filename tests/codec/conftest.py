"""An image, and its bitstreams of CompressAI's own coder."""

import copy
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F

from cdl_d2.codec import Bitstream, Codec
from cdl_d2.codec.latent import pad_for_coding
from cdl_d2.device import channels_last
from tests.conftest import VARIABLE_RATE, small_network, small_quality

WITH_CONTEXT = ("mbt2018", "cheng2020-anchor", "cheng2020-attn", "mbt2018-vbr")
IMAGE = torch.rand(3, 70, 90, generator=torch.Generator().manual_seed(1))


@cache
@torch.no_grad()
def compressai_round_trip(name: str) -> tuple[dict[str, Any], torch.Tensor]:
    """Return CompressAI's strings for IMAGE with a small codec, and its reconstruction.

    The decoder runs in the memory format of `Codec.decode`, as the last digits depend on it.
    """
    network, rate = small_network(name), {}
    if name in VARIABLE_RATE:
        network, rate = copy.deepcopy(network), {"s": small_quality(name) - 1}
        step = {} if name == "mbt2018-vbr" else {"scale": network.Gain[rate["s"]]}
        network.update(force=True, **step)
    coded = network.compress(pad_for_coding(IMAGE)[None], **rate)
    handle = network.g_s.register_forward_pre_hook(lambda _, inputs: channels_last(inputs[0]))
    x_hat = network.decompress(**coded, **rate)["x_hat"]
    handle.remove()
    return coded, x_hat[0, :, :70, :90]


@torch.no_grad()
def compressai_stream(
    codec: Codec, image: torch.Tensor, padding: tuple[int, int, int, int]
) -> Bitstream:
    """Return CompressAI's bitstream of an image padded with black, as by its own tools.

    Args:
        padding: left, right, top, bottom.
    """
    network = copy.deepcopy(codec.network).cpu()
    network.update(force=True)
    coded = network.compress(F.pad(image, padding)[None])
    return Bitstream.from_compressai(codec.identity, coded, tuple(image.shape[1:]), padding)
