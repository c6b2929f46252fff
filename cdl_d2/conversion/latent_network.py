"""RGB network of any library that reads latents in place of pixels.

Shapes: N images of H x W pixels, M latent channels, h x w latent positions of 16 x 16 pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from cdl_d2.codec import Bitstream, Codec, Latent
from cdl_d2.codec.bitstream.stream import SUFFIX
from cdl_d2.codec.io.image_files import read_image
from cdl_d2.codec.latent import STRIDE, check_covers, latent_grid
from cdl_d2.conversion.image_network import ImageNetwork, check_one_size
from cdl_d2.conversion.losses import named_tensors
from cdl_d2.conversion.preprocessing import Preprocessing
from cdl_d2.errors import CdlError
from cdl_d2.nn.bridge.bridge import Bridge
from cdl_d2.nn.bridge.input_adapter import announce_images
from cdl_d2.nn.bridge.linear_bridge import LinearBridge, find_first_convolution, replace_module
from cdl_d2.nn.bridge.stage import bridge_stage, find_stage

TRIAL_SIDE = 64  # of the image by which a stage is found, of a network for images of any size
DECODER_STRIDE = 4  # default: later layers cost most, add little (docs/experiments/conversion.md)
Size = tuple[int, int]


class LatentNetwork(ImageNetwork):
    """An RGB network whose first convolution, or first stages, a bridge from latents replaces.

    The network runs as it is, on zeros with the shape of the pixels; in the place of the first
    convolution, the bridge returns features of the latents. So its checks of sizes, its padding and
    the resizing of outputs work as on pixels, and its normalization has no effect.

    Args:
        network: copied; one convolution reads its pixels.
        codec: codec of the latents.
        preprocessing: of images, before they are encoded.
        decoder_stride: stride in pixels at which the copied first layers of the decoder end;
            default DECODER_STRIDE, or half of that of larger patches, which would need a window of
            too many features to fit.
        width: rank of the linear map; default that of LinearBridge.
        entry: name of a module whose output a Bridge replaces, so that all layers before it are
            left out; it ends with the decoder at the module's stride, and has no linear map. Empty
            for the first convolution.

    Raises:
        CdlError: if the network has no convolution on pixels, several, or one that a bridge cannot
            replace; for an unknown entry, or one that is no stage.
    """

    def __init__(
        self,
        network: nn.Module,
        codec: Codec,
        preprocessing: Preprocessing,
        decoder_stride: int | None = None,
        width: int | None = None,
        entry: str = "",
    ):
        super().__init__(network, preprocessing)
        self._codec = [codec]  # a list: no submodule
        with torch.random.fork_rng(devices=[]):  # of weights that the fit replaces
            if entry:
                self._replace_stage(entry)
                return
            name, convolution = find_first_convolution(self.network)
            decoder_stride = decoder_stride or max(DECODER_STRIDE, convolution.stride[0] // 2)
            bridge = LinearBridge(codec, convolution, width, decoder_stride)
            replace_module(self.network, name, _BridgedModule(bridge))

    def _replace_stage(self, entry: str) -> None:
        side = self.preprocessing.crop or TRIAL_SIDE
        generator = torch.Generator().manual_seed(0)
        image = torch.randint(0, 256, (3, side, side), generator=generator, dtype=torch.uint8)
        run = partial(super().run, [image])
        stage = find_stage(self.network, entry, run, (side, side))
        bridge = Bridge(
            self._codec[0], stage.stride, stage.channels, is_rectified=stage.is_rectified
        )
        bridge_stage(self.network, stage, _BridgedModule(bridge.to(self.device)))

    @property
    def bridge(self) -> LinearBridge | Bridge:
        """The module that reads the latents."""
        return next(m for m in self.modules() if isinstance(m, LinearBridge | Bridge))

    @property
    def codec(self) -> Codec:
        """Codec of the latents, on the network's device."""
        return self._codec[0].on(self.device)

    def forward(
        self,
        latents: torch.Tensor | Latent | Sequence[Latent],
        image_sizes: Sequence[Size] | None = None,
        **arguments: Any,
    ) -> Any:
        """Return the network's output for a batch of latents.

        Args:
            latents: y_hat, N x M x h x w, with the margin or without it; or one Latent, or several.
            image_sizes: (H, W) of each image in pixels; default that of each Latent, or 16 h x 16
                w. A network that takes no list needs images of one size.
            arguments: further arguments of the network.

        Raises:
            CdlError: for latents of another number of channels, or images of several sizes.
        """
        batches, sizes = _read_batch(latents, image_sizes)
        zero = next(self.bridge.parameters()).new_zeros(())
        if not self.reads_list:
            check_one_size(self.network, sizes)
            pixels: Any = zero.expand(len(sizes), 3, *sizes[0])
        else:
            pixels = [zero.expand(3, *size) for size in sizes]
        return self._run(batches, pixels, sizes, **arguments)

    def run_grid(self, y_hat: torch.Tensor, size: Size) -> Any:
        """Return the network's output for images of one size; sides may be symbols of a trace.

        Args:
            y_hat: N x M x h x w, which cover the images.
            size: (H, W) of all images in pixels.
        """
        return self._run([y_hat], y_hat.new_zeros(()).expand(y_hat.shape[0], 3, *size))

    def _run(
        self,
        batches: list[torch.Tensor],
        pixels: Any,
        sizes: Sequence[Size] = (),
        **arguments: Any,
    ) -> Any:
        bridged = next(m for m in self.modules() if isinstance(m, _BridgedModule))
        bridged.latents, bridged.sizes = batches, sizes
        try:
            return self.network(pixels, **arguments)
        finally:
            bridged.latents = bridged.sizes = ()

    def run(self, images: Sequence[torch.Tensor]) -> Any:
        """Return the network's output for the latents of images; as ImageNetwork.run."""
        return self([self.encode_pixels(image) for image in images])

    @torch.no_grad()
    def check_pixels_unread(self, image: torch.Tensor) -> None:
        """Raise CdlError if the output depends on pixels beside the first convolution's."""

        def add_one(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            pixels, *arguments = inputs
            ones = [p + 1 for p in pixels] if self.reads_list else pixels + 1
            return ones, *arguments

        outputs = [self._list_outputs(image)]
        handle = self.network.register_forward_pre_hook(add_one)
        try:
            outputs.append(self._list_outputs(image))
        finally:
            handle.remove()
        if not all(map(torch.equal, *outputs)):
            raise CdlError(
                f"{type(self.network).__name__} reads its pixels elsewhere than in one convolution,"
                " as by a skip connection: latents cannot replace them"
            )

    def _list_outputs(self, image: torch.Tensor) -> list[torch.Tensor]:
        return [tensor.nan_to_num() for _, tensor in named_tensors(self.run([image]))]

    def encode(self, source: Any) -> Latent:
        """Return the latent of an image or of a bitstream, on the network's device.

        Args:
            source: path of an image or bitstream, a Bitstream, a picture of Pillow, or 3 x H x W,
                uint8. Images are resized and cropped as in the RGB network's evaluation,
                bitstreams decoded as they are.

        Raises:
            CdlError, OSError: if it cannot be read, or another codec wrote it.
        """
        if isinstance(source, str | Path) and Path(source).suffix.lower() == SUFFIX:
            source = Bitstream.load(source)
        if isinstance(source, Bitstream):
            return self._codec[0].decompress(source).to(self.device)
        return self.encode_pixels(self.preprocessing.apply(read_image(source)))

    def encode_pixels(self, image: torch.Tensor, with_bits: bool = False) -> Latent:
        """Return the latent of an image, 3 x H x W, uint8, that is resized and cropped already."""
        return self.codec.encode(image.to(self.device).float() / 255, with_bits=with_bits)


class _BridgedModule(nn.Module):
    """Bridge in the place of a module: it reads the batch's latents, not its input, the pixels.

    Args:
        bridge: from latents to the module's output.

    Attributes:
        latents: y_hat of the images in the batch that runs, n x M x h x w each; the LatentNetwork
            sets it.
        sizes: (H, W) of these images in pixels; none if they have the size of the batch.
    """

    def __init__(self, bridge: LinearBridge | Bridge):
        super().__init__()
        self.bridge = bridge
        self.latents: Sequence[torch.Tensor] = ()
        self.sizes: Sequence[Size] = ()

    @property
    def weight(self) -> torch.Tensor:
        """Weight of the convolution, whose type and device some networks read."""
        return self.bridge.weight

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        height, width = pixels.shape[2:]
        y_hat = _stack(self.latents, latent_grid((height, width)))
        if any(size != (height, width) for size in self.sizes):
            latents = [y for latent in self.latents for y in latent]
            announce_images(self.bridge, latents, self.sizes)
        rows, columns = self.bridge.output_size(height, width)
        feature = self.bridge(y_hat.to(next(self.bridge.parameters()).dtype))
        is_last = feature.is_contiguous(memory_format=torch.channels_last)
        memory_format = torch.channels_last if is_last else torch.contiguous_format
        cropped = feature[:, :, :rows, :columns]
        return cropped.contiguous(memory_format=memory_format)  # some networks call `view`


def _stack(latents: Sequence[torch.Tensor], grid: Size) -> torch.Tensor:
    """Concatenate latents, n x M x h x w each, padded by zeros to `grid` at least."""
    grids = [tuple(latent.shape[2:]) for latent in latents]
    rows, columns = (max(sides) for sides in zip(grid, *grids, strict=True))
    return torch.cat(
        [
            F.pad(latent, (0, columns - own[1], 0, rows - own[0]))
            for latent, own in zip(latents, grids, strict=True)
        ]
    )


def _read_batch(
    latents: torch.Tensor | Latent | Sequence[Latent], image_sizes: Sequence[Size] | None
) -> tuple[list[torch.Tensor], list[Size]]:
    """Return y_hat of the images, n x M x h x w each, and (H, W) of each image."""
    if isinstance(latents, Latent):
        latents = [latents]
    if isinstance(latents, torch.Tensor):
        if latents.ndim != 4:
            raise CdlError(f"latents of shape {tuple(latents.shape)}: expected N x M x h x w")
        batches, size = [latents], tuple(STRIDE * side for side in latents.shape[2:])
        sizes = [size] * len(latents)
    else:
        batches = [latent.cells_and_margin[None] for latent in latents]
        sizes = [latent.image_size for latent in latents]
    if image_sizes is not None:
        sizes = [(int(height), int(width)) for height, width in image_sizes]
    latents = [batch for batch in batches for _ in range(len(batch))]
    if not latents or len(latents) != len(sizes):
        raise CdlError(f"{len(latents)} latents for {len(sizes)} images")
    for latent, size in zip(latents, sizes, strict=True):
        check_covers(latent, size, with_margin=True)
    return batches, sizes
