"""Which codec a network was trained with, as part of its state."""

from __future__ import annotations

import json

import torch
from torch import nn

from cdl_d2.codec.latent import CodecIdentity
from cdl_d2.errors import CdlError

_BYTES = 256
_FINGERPRINT = 16  # digits of CodecIdentity.weights


class CodecStamp(nn.Module):
    """Keeps the identity of a codec, or of one at several qualities, in the state dict of the
    network that reads what it gives.

    Loading a state with the stamp of another codec raises CdlError, so that a network trained on
    latents of one quantization never reads the other by mistake. A network of several qualities
    can be loaded to be fed some of them. A stamp without identity adopts what it loads first.

    Args:
        identities: of the codec at all its qualities; none for a network not committed to one.
        required: whether a state without a stamp is incomplete. A network on decoded images can
            have weights from original ones.
    """

    def __init__(self, *identities: CodecIdentity, required: bool = True):
        super().__init__()
        self._required = required
        self.register_buffer("stamp", _to_bytes(identities))

    @property
    def identities(self) -> tuple[CodecIdentity, ...]:
        """The codec, at all qualities; empty if the network is not committed to one."""
        return _from_bytes(self.stamp)

    def commit(self, *identities: CodecIdentity) -> None:
        """Name another codec, or none: for a network whose codec is being trained."""
        self.stamp.copy_(_to_bytes(identities))

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        stored = state_dict.get(prefix + "stamp")
        if stored is not None:
            theirs, ours = _from_bytes(stored), self.identities
            if theirs and not set(ours) <= set(theirs):
                raise CdlError(
                    f"the checkpoint reads {in_words(theirs)}; this model is fed {in_words(ours)}"
                )
            if ours or not theirs:
                state_dict[prefix + "stamp"] = self.stamp
        elif not self._required:
            state_dict[prefix + "stamp"] = self.stamp
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def in_words(identities: tuple[CodecIdentity, ...]) -> str:
    """Identities for a message."""
    return "; or ".join(map(str, identities))


def _to_bytes(identities: tuple[CodecIdentity, ...]) -> torch.Tensor:
    """One as it is; several as one whose quality and weights are lists."""
    text = b""
    if identities:
        content = dict(vars(identities[0]))
        if len(identities) > 1:
            content["quality"] = [each.quality for each in identities]
            content["weights"] = "".join(each.weights for each in identities)
            if len({each.weights for each in identities}) == 1:  # of one variable-rate network
                content["weights"] = identities[0].weights
        separators = (",", ":") if len(identities) > 1 else None
        text = json.dumps(content, separators=separators).encode()
    if len(text) > _BYTES:
        raise CdlError(f"{len(identities)} qualities of {identities[0].name} are too many")
    return torch.tensor(list(text.ljust(_BYTES)), dtype=torch.uint8)


def _from_bytes(stored: torch.Tensor) -> tuple[CodecIdentity, ...]:
    try:
        text = bytes(torch.as_tensor(stored).tolist()).decode().strip()
        return _read(text) if text else ()
    except (KeyError, RecursionError, TypeError, ValueError, ZeroDivisionError) as error:
        raise CdlError("the name of their codec in the weights is damaged: copy them again") from (
            error
        )


def _read(text: str) -> tuple[CodecIdentity, ...]:
    content = json.loads(text)
    if not isinstance(content["quality"], list):
        return (CodecIdentity.from_dict(content),)
    qualities, weights = content["quality"], content["weights"]
    each = [weights[i : i + _FINGERPRINT] for i in range(0, len(weights), _FINGERPRINT)]
    each *= len(qualities) // len(each)
    return tuple(
        CodecIdentity.from_dict(content | {"quality": quality, "weights": fingerprint})
        for quality, fingerprint in zip(qualities, each, strict=True)
    )
