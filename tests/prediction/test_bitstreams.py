"""Bitstreams for a trained model."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from cdl_d2.codec import CodecChoice
from cdl_d2.errors import CdlError
from cdl_d2.prediction.bitstreams import compressor_for
from cdl_d2.prediction.loading import load_model


def test_a_model_of_rounded_latents_is_rejected_before_any_image(latent_model):
    codec = CodecChoice("tiny-bmshj2018-hyperprior", 2, quantization="rounded").load()
    coded_input = SimpleNamespace(codec=codec, codec_on=codec.on)
    network = SimpleNamespace(coded_input=coded_input, device="cpu")
    with pytest.raises(CdlError, match="rounded"):
        compressor_for(replace(load_model(latent_model, "cpu"), network=network))
