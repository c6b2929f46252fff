"""The kinds of files: a new one is an entry of KINDS."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec

from tests.fuzz import images, stores, streams, tars, texts, weights
from tests.fuzz.case import Kind
from tests.fuzz.mutations import mutate_bytes

_ALL = (
    Kind("bitstream", streams.make_streams, mutate_bytes, streams.read_stream, checksum=True),
    Kind("forged-bitstream", streams.make_streams, streams.forge_stream, streams.read_stream),
    Kind(
        "compressai-file",
        streams.make_compressai_files,
        mutate_bytes,
        streams.read_compressai_file,
    ),
    Kind("layer", streams.make_layers, mutate_bytes, streams.read_layer, checksum=True),
    Kind("forged-layer", streams.make_layers, streams.forge_stream, streams.read_layer),
    Kind(
        "shard",
        partial(stores.make_files, stores.SHARD),
        mutate_bytes,
        stores.read_store,
        checksum=True,
    ),
    Kind(
        "forged-shard",
        partial(stores.make_files, stores.SHARD),
        stores.forge_shard,
        stores.read_store,
    ),
    Kind(
        "plan",
        partial(stores.make_files, stores.PLAN),
        stores.mutate_json,
        stores.read_store,
        checksum=True,  # shards say the same
    ),
    Kind(
        "manifest",
        partial(stores.make_files, stores.MANIFEST),
        stores.mutate_json,
        stores.read_store,
        checksum=True,
    ),
    Kind(
        "checkpoint",
        weights.make_checkpoints,
        mutate_bytes,
        weights.read_checkpoint_file,
        checksum=True,
    ),
    Kind(
        "forged-checkpoint",
        weights.make_checkpoints,
        weights.forge_weights,
        weights.read_checkpoint_file,
    ),
    Kind("codec-weights", weights.make_codec_weights, mutate_bytes, weights.read_codec_weights),
    Kind(
        "forged-codec-weights",
        weights.make_hostile_codec_weights,
        weights.forge_weights,
        weights.read_codec_weights,
    ),
    Kind("statistics", weights.make_statistics, mutate_bytes, weights.read_statistics),
    Kind("annotations", texts.make_annotations, stores.mutate_json, texts.read_annotations),
    Kind("voc", texts.make_voc_annotations, texts.mutate_xml, texts.read_voc_annotation),
    Kind("selection", texts.make_selections, stores.mutate_json, texts.read_selection),
    Kind("attributes", texts.make_tables, mutate_bytes, texts.read_table),
    Kind("image", images.make_images, images.mutate_image, images.read_picture),
    Kind("tar", tars.make_tars, mutate_bytes, tars.read_tar),
    Kind("card", texts.make_cards, texts.mutate_yaml, texts.read_card_file),
)
_WITH_DETECTRON2 = (
    Kind("pickle", weights.make_pickles, weights.mutate_pickle, weights.read_checkpoint_file),
    Kind("config", texts.make_configs, texts.mutate_yaml, texts.read_config_file),
)
KINDS = {
    kind.name: kind for kind in (*_ALL, *(_WITH_DETECTRON2 if find_spec("detectron2") else ()))
}
