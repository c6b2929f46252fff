"""Which codec a network was trained with, as part of its state."""

from __future__ import annotations

import json

import torch
from torch import nn

from cdl_d2.codec.latent import CodecIdentity
from cdl_d2.errors import CdlError

_BYTES = 256


class CodecStamp(nn.Module):
    """Keeps a codec's identity in the state dict of the network that reads what the codec gives.

    Loading a state with the stamp of another codec raises CdlError, so that a network trained on
    one meaning of y_hat is never fed the other by mistake. A stamp without identity adopts the
    first that it loads.

    Args:
        identity: of the codec.
        required: whether a state without a stamp is incomplete. A network on decoded images can
            have weights from original ones.
    """

    __jit_unused_properties__ = ["identity"]  # TorchScript compiles properties, and knows no JSON

    def __init__(self, identity: CodecIdentity | None = None, required: bool = True):
        super().__init__()
        self._required = required
        self.register_buffer("stamp", _to_bytes(identity))

    @property
    def identity(self) -> CodecIdentity | None:
        """The codec, or None if the network is not committed to one."""
        return _from_bytes(self.stamp)

    def commit(self, identity: CodecIdentity | None) -> None:
        """Name another codec, or none: for a network whose codec is being trained."""
        self.stamp.copy_(_to_bytes(identity))

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        stored = state_dict.get(prefix + "stamp")
        if stored is not None:
            theirs, ours = _from_bytes(stored), self.identity
            if theirs is not None and ours is not None and theirs != ours:
                raise CdlError(f"the checkpoint reads {theirs}; this model is fed {ours}")
            if theirs is None:
                state_dict[prefix + "stamp"] = self.stamp
        elif not self._required:
            state_dict[prefix + "stamp"] = self.stamp
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def _to_bytes(identity: CodecIdentity | None) -> torch.Tensor:
    text = json.dumps(vars(identity)).encode() if identity else b""
    return torch.tensor(list(text.ljust(_BYTES)), dtype=torch.uint8)


def _from_bytes(stored: torch.Tensor) -> CodecIdentity | None:
    try:
        text = bytes(torch.as_tensor(stored).tolist()).decode().strip()
        return CodecIdentity(**json.loads(text)) if text else None
    except (RecursionError, TypeError, ValueError) as error:
        raise CdlError("the name of their codec in the weights is damaged: copy them again") from (
            error
        )
