"""Conversion of a trained RGB network to latent input, with unlabelled images only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from cdl_d2.codec import Codec, CodecChoice
from cdl_d2.codec.io.image_files import read_image
from cdl_d2.conversion.comparison import LatentReader, compare
from cdl_d2.conversion.distillation import STATE_FILE, DistillationOptions
from cdl_d2.conversion.fit import fit_to_images
from cdl_d2.conversion.image_network import DecodedNetwork, ImageNetwork
from cdl_d2.conversion.image_sets import distil_on_images, list_images, split_images
from cdl_d2.conversion.latent_network import LatentNetwork
from cdl_d2.conversion.preprocessing import Preprocessing
from cdl_d2.conversion.report import CONVERTED, DECODED, FINE_TUNED, NOT_TUNED, Report
from cdl_d2.errors import CdlError

FIT_IMAGES = 200  # at most


def convert(
    network: nn.Module,
    codec: str | Codec,
    quality: int | None = None,
    images: str | Path | Sequence[str | Path] = (),
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    preprocessing: Preprocessing | None = None,
    distillation: DistillationOptions | None = None,
    decoder_stride: int | None = None,
    width: int | None = None,
    entry: str = "",
    folder: str | Path | None = None,
) -> LatentNetwork:
    """Convert a trained RGB network of any library to latent input.

    ```python
    model = cdl_d2.convert(network, "bmshj2018-hyperprior", 4, "photos/", mean=mean, std=std)
    output = model(model.encode("photo.jpg"))
    ```

    A bridge from latents replaces the network's only convolution on pixels. It is fitted in closed
    form, and then the first layers are trained to reproduce the RGB network, both on unlabelled
    images.

    Args:
        network: in the state to convert; not changed.
        codec: a Codec, or the name of one with published weights.
        quality: quality of a codec that is given by name.
        images: a folder, which is searched, or files.
        mean: per-channel mean of the network's input, for images in [0, 1]; default what the
            network states (timm's networks and torchvision's detectors do). Zeros for a network
            that normalizes its input itself.
        std: per-channel standard deviation of the network's input; ones for such a network.
        preprocessing: with mean, std and the size of images, instead of these two.
        distillation: options of the training; default DistillationOptions(); 0 iterations for the
            fit alone.
        decoder_stride: stride in pixels at which the copied first layers of the decoder end;
            default that of LatentNetwork.
        width: rank of the bridge's linear map; default that of LinearBridge.
        entry: name of a module that ends a stage, such as `layer1`: the bridge replaces its output,
            and all layers before it are left out, for a cheaper network. Default the first
            convolution.
        folder: where an interrupted training is kept and continued; default nowhere.

    Returns:
        the converted network, on the device and in the precision of the network.

    Raises:
        CdlError, OSError: for a network without, or with several, convolutions on pixels; one whose
            input range is not stated, or that does not run on images of this size; an unknown
            codec; too few or unreadable images.
    """
    preprocessing = preprocessing or Preprocessing.of_network(network, mean, std)
    folder = Path(folder) if folder is not None else None
    if folder:
        folder.mkdir(parents=True, exist_ok=True)  # before minutes of training
    conversion = Conversion(network, load_codec(codec, quality), images, preprocessing, folder)
    options = distillation or DistillationOptions()
    student = conversion.to_latents(options, decoder_stride, width, entry)
    if folder:
        (folder / STATE_FILE).unlink(missing_ok=True)
    return student.to(next((p.dtype for p in network.parameters()), torch.float32))


class Conversion:
    """The steps of a conversion, whose results a report compares.

    Args:
        network: RGB network; copied.
        codec: codec of the latents.
        images: a folder, which is searched, or files.
        preprocessing: of the network's images.
        folder: where an interrupted training is kept and continued; None for nowhere.

    Attributes:
        teacher: the RGB network.
        kept_aside: files of the report, to which nothing is fitted and by which nothing is chosen.
        explained: share of the variance of what it replaces that the fitted bridge explains; None
            before.
        history: validation losses of the last training.
        compared: networks of the last comparison by name.
        report: of the last comparison; None before.

    Raises:
        CdlError, FileNotFoundError: for too few or unreadable images, or none; if the network does
            not run on them.
    """

    def __init__(
        self,
        network: nn.Module,
        codec: Codec,
        images: str | Path | Sequence[str | Path],
        preprocessing: Preprocessing,
        folder: Path | None = None,
    ):
        self.teacher = ImageNetwork(network, preprocessing)
        self.codec, self._folder, self._preprocessing = codec, folder, preprocessing
        self.kept_aside, self._files = split_images(list_images(images))
        self.explained: float | None = None
        self.history: list[dict[str, float]] = []
        self.compared: dict[str, LatentReader] = {}
        self.report: Report | None = None
        self.teacher.check_image(self.read(self._files[0]))

    def to_latents(
        self,
        options: DistillationOptions,
        decoder_stride: int | None = None,
        width: int | None = None,
        entry: str = "",
    ) -> LatentNetwork:
        """Return the network on latents, fitted and trained; arguments as of `convert`."""
        arguments = self._preprocessing, decoder_stride, width, entry
        student = LatentNetwork(self.teacher.network, self.codec, *arguments)
        student.to(self.teacher.device)
        if entry:
            student.check_image(self.read(self._files[0]))
        fitted = tqdm(self._files[:FIT_IMAGES], desc="fit bridge", unit="image")
        self.explained = fit_to_images(student, self.teacher, map(self.read, fitted), entry)
        student.check_pixels_unread(self.read(self._files[0]))
        return self._distil(student, options)

    def to_reconstructions(self, options: DistillationOptions) -> DecodedNetwork:
        """Return the network on decoded images, trained as `to_latents` trains."""
        student = DecodedNetwork(self.teacher.network, self.codec, self._preprocessing)
        return self._distil(student, options)

    def compare(
        self, converted: LatentNetwork | None = None, fine_tuned: DecodedNetwork | None = None
    ) -> Report:
        """Compare networks with the RGB network on the files that were kept aside.

        Args:
            converted: result of `to_latents`.
            fine_tuned: result of `to_reconstructions`; one of both, at least, is given.
        """
        decoded = DecodedNetwork(self.teacher.network, self.codec, self._preprocessing)
        tuned = FINE_TUNED if self.history else NOT_TUNED
        networks = {DECODED: decoded, tuned: fine_tuned, CONVERTED: converted}
        self.compared = {name: network for name, network in networks.items() if network is not None}
        self.report = compare(
            *(self.teacher, self.compared, self.kept_aside, self.read, self.codec),
            history=self.history,
        )
        return self.report

    def read(self, file: Path) -> torch.Tensor:
        """Return an image, 3 x H x W, uint8, resized and cropped as in evaluation."""
        return self._preprocessing.apply(read_image(file))

    def _distil(self, student: Any, options: DistillationOptions) -> Any:
        is_single = not self._preprocessing.crop and not self.teacher.reads_list
        networks = student, self.teacher, self._preprocessing
        self.history = distil_on_images(*networks, self._files, options, self._folder, is_single)
        return student.requires_grad_(False)


def load_codec(codec: str | Codec, quality: int | None) -> Codec:
    """Return a codec, or load the one with a name and its published weights.

    Raises:
        CdlError: for an unknown name or quality, or a name without quality.
    """
    if isinstance(codec, Codec):
        return codec
    if quality is None:
        raise CdlError(f"the codec {codec!r} needs a quality")
    return CodecChoice(codec, quality).load()
