"""Identity of a network's codec, as part of the network's state."""

from __future__ import annotations

import json

import torch
from torch import nn

from cdl_d2.codec.latent import CodecIdentity
from cdl_d2.errors import CdlError

_BYTES = 256
_FINGERPRINT = 16  # digits of CodecIdentity.weights


class CodecStamp(nn.Module):
    """Identities of a codec, at one or several qualities, in the state dict of a network.

    Loading the state of a network for another codec raises CdlError. A network of several qualities
    can be loaded for some of them. A stamp without identities adopts those that it loads.

    Args:
        identities: the codec at all its qualities; none for a network of any codec.
        required: a state without a stamp is incomplete. False for models on reconstructed images,
            which may have the weights of an RGB model.
    """

    def __init__(self, *identities: CodecIdentity, required: bool = True):
        super().__init__()
        self._required, self.identities = required, identities
        self.register_buffer("stamp", _to_bytes(identities))

    def commit(self, *identities: CodecIdentity) -> None:
        """Replace the identities, as for a network whose codec is being trained."""
        self.identities = identities
        self.stamp.copy_(_to_bytes(identities))

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        stamp = state_dict.get(prefix + "stamp")
        if stamp is not None:
            stored, own = _from_bytes(stamp), self.identities
            if stored and not set(own) <= set(stored):
                raise CdlError(
                    f"the checkpoint reads {format_identities(stored)}; this model is for "
                    f"{format_identities(own)}"
                )
            if own or not stored:
                state_dict[prefix + "stamp"] = self.stamp
            self.identities = own or stored
        elif not self._required:
            state_dict[prefix + "stamp"] = self.stamp
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def format_identities(identities: tuple[CodecIdentity, ...]) -> str:
    """Return identities as text for a message."""
    return "; or ".join(map(str, identities))


def _to_bytes(identities: tuple[CodecIdentity, ...]) -> torch.Tensor:
    """Return JSON as 256 bytes, uint8.

    Several identities become one object with a list of qualities and concatenated fingerprints, or
    one fingerprint if all are equal, as for a variable-rate codec.
    """
    text = b""
    if identities:
        content = vars(identities[0]).copy()
        if len(identities) > 1:
            weights = [identity.weights for identity in identities]
            content["quality"] = [identity.quality for identity in identities]
            content["weights"] = weights[0] if len(set(weights)) == 1 else "".join(weights)
        separators = (",", ":") if len(identities) > 1 else None
        text = json.dumps(content, separators=separators).encode()
    if len(text) > _BYTES:
        raise CdlError(f"{len(identities)} qualities of {identities[0].name} are too many")
    return torch.tensor(list(text.ljust(_BYTES)), dtype=torch.uint8)


def _from_bytes(stamp: torch.Tensor) -> tuple[CodecIdentity, ...]:
    try:
        text = bytes(torch.as_tensor(stamp).tolist()).decode().strip()
        return _parse(text) if text else ()
    except (KeyError, RecursionError, TypeError, ValueError, ZeroDivisionError) as error:
        raise CdlError("the codec's identity in the weights is corrupted: copy them again") from (
            error
        )


def _parse(text: str) -> tuple[CodecIdentity, ...]:
    content = json.loads(text)
    if not isinstance(content["quality"], list):
        return (CodecIdentity.from_dict(content),)
    qualities, weights = content["quality"], content["weights"]
    fingerprints = [weights[i : i + _FINGERPRINT] for i in range(0, len(weights), _FINGERPRINT)]
    fingerprints *= len(qualities) // len(fingerprints)
    return tuple(
        CodecIdentity.from_dict(content | {"quality": quality, "weights": fingerprint})
        for quality, fingerprint in zip(qualities, fingerprints, strict=True)
    )
