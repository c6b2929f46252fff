"""`cdl convert`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cdl_d2.cli.conversion_options import ConversionCodec, ConversionOptions, RgbModel
from cdl_d2.cli.options import CodecOptions, InputsAndOverrides, split_overrides
from cdl_d2.cli.output import advice, print_rows
from cdl_d2.cli.output import report as report_failure
from cdl_d2.errors import CdlError, MissingWeightsError

if TYPE_CHECKING:
    from cdl_d2.codec import CodecChoice
    from cdl_d2.conversion.comparison import ComparedConversion
    from cdl_d2.conversion.convert import Conversion
    from cdl_d2.conversion.network_conversion import NetworkConversion
    from cdl_d2.conversion.report import Report
    from cdl_d2.d2.applications.conversion import ModelConversion
    from cdl_d2.d2.applications.conversion_outcome import Outcome
    from cdl_d2.tv.conversion import DetectorConversion, DetectorResult

BATCH_SIZE = 4  # of Detectron2's models, most of which run images one by one
# Share of the variance; useful fits to a first convolution leave a few percent unexplained.
LEAST_EXPLAINED = 0.5
NETWORKS_ADVICE = "networks of torchvision and timm are torchvision/NAME and timm/NAME"
DEFAULTS = ConversionOptions()


def convert(
    model: RgbModel,
    /,
    *inputs: InputsAndOverrides,
    codec: ConversionCodec,
    output: Path,
    weights: str | None = None,
    options: ConversionOptions = DEFAULTS,
) -> None:
    r"""Convert a trained RGB model to latent input, with unlabelled images.

    ```
    cdl convert timm/tf_efficientnet_lite0 photos --output converted \
        --codec tiny-bmshj2018-hyperprior --quality 2 --minutes 5
    cdl convert output/pixel_mask_rcnn_small photos --output converted \
        --codec tiny-bmshj2018-hyperprior --quality 2
    ```

    An adapter (bridge) replaces the first convolution of a detector, segmentation model or
    classifier; it is fitted in closed form to the images, in about a minute. Then the layers are
    trained to reproduce the RGB network's features and outputs on the images; those of a model of
    Detectron2 if --minutes or --iterations are given. An interrupted training is continued by the
    same command.
    A report compares the result with the RGB network, on images that are kept aside.

    The output folder has a `model_final.pth`, which is a MODEL for all commands, and for Detectron2
    a `config.yaml`.

    Args:
        output: Folder to write the model to.
        weights: File of the RGB model's weights.
    """
    from cdl_d2.model_zoo.backends import NETWORKS
    from cdl_d2.prediction.sources import find_image_files

    if (codec.quality is None) == (not options.qualities):
        raise CdlError("give the quality of the codec: --quality N, or --qualities N N ...")
    if options.report or options.qualities:  # its packages may be missing
        import cdl_d2.bench.conversion_page  # noqa: F401
    words, overrides = split_overrides(inputs)
    images = find_image_files(words)
    if model.startswith(NETWORKS):
        if overrides:
            raise CdlError(f"{overrides[0]}: {model} has no config to change")
        _convert_network(model, images, codec, output, weights, options)
    elif checkpoint := _find_torchvision_checkpoint(model):
        if overrides or weights:
            raise CdlError(
                f"{[*overrides, weights][0]}: {model} has its config and weights in one file"
            )
        _convert_detector(checkpoint, images, codec, output, options)
    else:
        _convert_detectron2(model, images, overrides, codec, output, weights, options)


def _convert_network(
    model: str,
    images: Sequence[Path],
    codec: CodecOptions,
    output: Path,
    weights: str | None,
    options: ConversionOptions,
) -> None:
    """Convert a network of torchvision or timm."""
    from cdl_d2.conversion.named_networks import load_named_network, split_weights
    from cdl_d2.conversion.network_conversion import NetworkConversion
    from cdl_d2.device import usable_device

    _refuse_detectron2_options(options)
    choices = _list_choices(codec, output, options)
    name, file = split_weights(model)
    distillation, device = options.distillation(), usable_device(options.device)
    with advice("--weights FILE", MissingWeightsError):
        source = load_named_network(name, weights or file)
    arguments = distillation, options.domain, device, options.entry
    conversions = [NetworkConversion(source, images, *choice, *arguments) for choice in choices]
    reports, conversion = _run_all(conversions, options)
    _report(output, reports, conversion, source.outputs, options)


def _find_torchvision_checkpoint(model: str) -> str | None:
    """Return the checkpoint of a detector of `cdl train-torchvision`; None of another MODEL."""
    from cdl_d2.prediction.loading import find_model

    with advice(NETWORKS_ADVICE, CdlError):
        source = find_model(model)
    return source.weights if source.backend == "torchvision" and source.card is None else None


def _convert_detector(
    checkpoint: str,
    images: Sequence[Path],
    codec: CodecOptions,
    output: Path,
    options: ConversionOptions,
) -> None:
    """Convert a detector of `cdl train-torchvision`."""
    from cdl_d2.device import usable_device
    from cdl_d2.files import CONFIG_FILE
    from cdl_d2.tv.checkpoint import TORCHVISION_ZOO, read_checkpoint
    from cdl_d2.tv.conversion import DetectorConversion

    _refuse_detectron2_options(options)
    distillation = replace(options.distillation(), batch_size=BATCH_SIZE)
    arguments = distillation, options.domain, usable_device(options.device), options.entry
    if checkpoint != TORCHVISION_ZOO:
        with advice(f"a model of Detectron2 needs its {CONFIG_FILE} beside it", CdlError):
            read_checkpoint(checkpoint)
    choices = _list_choices(codec, output, options)
    conversions = [
        DetectorConversion(checkpoint, images, *choice, *arguments) for choice in choices
    ]
    reports, result = _run_all(conversions, options)
    _report(output, reports, result, result.class_names, options)


def _refuse_detectron2_options(options: ConversionOptions) -> None:
    """Raise CdlError for options that only models of Detectron2 have."""
    for name, value in (("--finest-level", options.finest_level), ("--classes", options.classes)):
        if value:
            raise CdlError(f"{name}: only for models of Detectron2")


def _run_all(
    conversions: Sequence[NetworkConversion | ModelConversion | DetectorConversion],
    options: ConversionOptions,
) -> tuple[list[Report], Conversion | Outcome | DetectorResult]:
    """Run the conversions of a command, one per quality; keep the results of an interrupted one.

    Returns:
        the reports, none of too few images; and the result of the last conversion.
    """
    reports: list[Report] = []
    for conversion in conversions:
        is_last = conversion is conversions[-1]  # it has the pictures
        if not is_last and (report := conversion.finished_report()):
            reports.append(report)
            continue
        result = conversion.run()
        reports += [result.report] if result.report else []
        _print_results(conversion.output, result.explained, result.history, options.entry)
    return reports, result


def _list_choices(
    codec: CodecOptions, output: Path, options: ConversionOptions
) -> list[tuple[CodecChoice, Path]]:
    """Return the codec and the folder of each conversion, one per quality."""
    if not options.qualities:
        return [(_check_codec(codec), output)]
    return [
        (_check_codec(replace(codec, quality=quality)), output / f"quality-{quality}")
        for quality in dict.fromkeys(options.qualities)
    ]


def _report(
    output: Path,
    reports: Sequence[Report],
    conversion: ComparedConversion,
    class_names: Sequence[str],
    options: ConversionOptions,
) -> None:
    """Print the reports of conversions, and write their curve and a page with the last one."""
    rows = [
        {"quality": report.quality, **row} if len(reports) > 1 else row
        for report in reports
        for row in report.table()
    ]
    print_rows(rows)
    for report in reports:
        print(f"quality {report.quality}: {report.summary()}")
    if any(report.decoding_agrees_more for report in reports):
        print("More time for the conversion: --minutes.")
    if not (options.report or options.qualities):
        return
    from cdl_d2.bench import conversion_page

    if len(reports) > 1:
        print(conversion_page.describe_saving(reports))
        print(f"written: {conversion_page.write_curve(output, reports)}")
    if options.report:
        pictures = conversion_page.draw_examples(conversion, class_names)
        print(f"written: {conversion_page.write_report(output, reports, pictures)}")


def _convert_detectron2(
    model: str,
    images: Sequence[Path],
    overrides: Sequence[str],
    codec: CodecOptions,
    output: Path,
    weights: str | None,
    options: ConversionOptions,
) -> None:
    """Convert a model of Detectron2."""
    from cdl_d2.prediction.loading import find_detectron2_config

    if options.device:
        raise CdlError(
            f"--device {options.device}: {model} is a model of Detectron2, write "
            f"MODEL.DEVICE {options.device}"
        )
    with advice(NETWORKS_ADVICE, CdlError):
        config_file, changes, own_weights = find_detectron2_config(model)
    from cdl_d2.conversion.image_sets import LEAST_IMAGES
    from cdl_d2.d2.applications.backend import number_classes
    from cdl_d2.d2.applications.convert import YamlConversion
    from cdl_d2.d2.applications.lazy_conversion import LazyConversion
    from cdl_d2.yaml_text import is_lazy_config

    lazy = config_file.is_file() and is_lazy_config(config_file)
    has_budget, distillation = bool(options.minutes or options.iterations), None
    if has_budget:
        distillation = replace(options.distillation(), batch_size=BATCH_SIZE)
    if options.classes:
        overrides = [*overrides, "MODEL.CLASS_NAMES", str(list(options.classes))]
    if (options.report or options.qualities) and len(images) < LEAST_IMAGES:
        raise CdlError(f"{len(images)} images: a report takes at least {LEAST_IMAGES}")
    parts = weights or own_weights, tuple(changes), tuple(overrides), options.domain, distillation
    cheaper = options.entry, options.finest_level
    kind = LazyConversion if lazy else YamlConversion
    choices = _list_choices(codec, output, options)
    conversions = [kind(config_file, images, *choice, *parts, *cheaper) for choice in choices]
    reports, outcome = _run_all(conversions, options)
    if outcome.class_names == number_classes(len(outcome.class_names)):
        report_failure(
            "cdl convert",
            f"warning: {model} names no classes, and no data set of its config is registered: they "
            "are called 0, 1, ...; --classes NAME ... gives names, here or to `cdl predict`",
        )
    if not reports:
        print(f"{output}: no report, which takes at least {LEAST_IMAGES} images")
        return
    _report(output, reports, outcome, outcome.class_names, options)


def _check_codec(options: CodecOptions) -> CodecChoice:
    """Return the choice of a codec, which can be loaded."""
    choice = options.choice()
    with advice("--codec-weights FILE", FileNotFoundError):
        choice.load()
    return choice


def _print_results(
    output: Path, explained: float | None, history: Sequence[Mapping[str, float]], entry: str
) -> None:
    """Print the share that a bridge explains, if one is fitted, and the losses of a training."""
    if history:
        best = min(history, key=lambda check: check["loss"])
        print(
            f"{output}: the loss on the validation images went from "
            f"{history[0]['loss']:.4f} to {best['loss']:.4f} after {best['iteration']} iterations"
        )
    if explained is None:
        return
    print(
        f"{output}: the bridge explains {100 * explained:.1f} % of the variance of the output of "
        f"{entry or 'the first convolution'}"
    )
    if explained < LEAST_EXPLAINED and not entry:
        report_failure(
            "cdl convert",
            "too little for a useful model: is the codec trained (--codec-weights), and do the "
            "images resemble those that the model is for?",
        )
