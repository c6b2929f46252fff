"""Conversion of a network by name, from its weights to a model's folder."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from cdl_d2.codec.io.state_dicts import fingerprint, load_into
from cdl_d2.conversion.convert import Conversion
from cdl_d2.conversion.folder_conversion import FolderConversion
from cdl_d2.conversion.image_network import ImageNetwork
from cdl_d2.conversion.losses import named_tensors
from cdl_d2.conversion.named_networks import NamedNetwork
from cdl_d2.conversion.network_model import NetworkConfig, NetworkModel, save_model
from cdl_d2.conversion.output_folder import conversion_folder
from cdl_d2.errors import CdlError
from cdl_d2.files import WEIGHTS_FILE
from cdl_d2.nn.input.domains import LATENT


@dataclass(frozen=True, eq=False)
class NetworkConversion(FolderConversion):
    """Conversion of a network by name; `source` is a NamedNetwork, `entry` as of `convert`."""

    source: NamedNetwork

    def run(self) -> Conversion:
        """Convert, check the result on an image, and write it; continue if it was interrupted.

        Returns:
            the conversion, which has the validation losses, the images kept aside and the report.

        Raises:
            CdlError, OSError: for unusable arguments, or an output folder of something else.
        """
        config = self._config()
        codec, preprocessing = config.codec.load(), config.preprocessing
        with conversion_folder(self.output, self.record(), [WEIGHTS_FILE]):
            network = self.source.network.to(self.device)
            conversion = Conversion(network, codec, self.images, preprocessing, self.output)
            if self.domain == LATENT:
                runner = conversion.to_latents(self.options, entry=self.entry)
                if not self.entry:
                    stride, width = runner.bridge.decoder_stride, runner.bridge.width
                    config = replace(config, decoder_stride=stride, width=width)
                report = conversion.compare(runner)
            else:
                runner = conversion.to_reconstructions(self.options)
                report = conversion.compare(fine_tuned=runner)
                runner = ImageNetwork(runner.network, preprocessing)
            model = NetworkModel(config, runner).cpu().eval()
            check_model(model, conversion.read(conversion.kept_aside[0]))
            report.save(self.output)
            config.codec.copy_weights(self.output)
            save_model(self.output / WEIGHTS_FILE, model)
        return conversion

    def _config(self) -> NetworkConfig:
        source, codec = self.source, self.absolute_codec()
        parts = source.name, source.task, source.outputs, source.preprocessing
        return NetworkConfig(*parts, domain=self.domain, codec=codec, entry=self.entry)

    def describe_model(self) -> dict[str, Any]:
        config = self._config()
        return {
            "network": config.network,
            "weights": fingerprint(self.source.network),
            "domain": config.domain,
            "entry": config.entry,
            "codec": asdict(config.codec),
            "preprocessing": asdict(config.preprocessing),
        }


@torch.no_grad()
def check_model(model: NetworkModel, image: torch.Tensor) -> None:
    """Raise CdlError unless a model, rebuilt from its config and weights, predicts an image.

    Args:
        model: on the CPU.
        image: 3 x H x W, uint8, resized and cropped already.
    """
    rebuilt = NetworkModel.build(model.config)
    load_into(rebuilt, model.state_dict(), model.config.network)
    [output] = rebuilt([{"image": image}])
    for name, values in named_tensors(output):
        if not values.isfinite().all():
            raise CdlError(
                f"the converted {model.config.network} predicts {name} that are not finite: is the "
                "codec trained, and are the weights of this network?"
            )
