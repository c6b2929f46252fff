"""`cdl codec train`: train a codec on photographs."""

from __future__ import annotations

from pathlib import Path

from cdl_d2.cli.options import Device, NotNegative, Positive


def train(
    images: Path,
    /,
    *,
    codec: str,
    quality: int,
    lmbda: float,
    iterations: int,
    output: Path,
    metric: str = "mse",
    batch_size: int = 8,
    patch_size: int = 192,
    learning_rate: float = 1e-3,
    seed: NotNegative = 0,
    initial_weights: Path | None = None,
    device: Device = None,
    workers: NotNegative = 0,
    threads: Positive | None = None,
    checkpoint_every: Positive = 500,
    resume: bool = False,
) -> None:
    r"""Train a codec of any architecture on a folder of photographs.

    ```
    cdl codec train photos --output output/tiny-2 --quality 2 \
        --codec tiny-bmshj2018-hyperprior --lmbda 0.0130 --iterations 9000
    ```

    Args:
        images: Folder, searched recursively.
        codec: Name of an architecture of CompressAI, with the prefix tiny- for its small version.
        quality: Quality number that the weights are saved under.
        lmbda: Weight of the distortion relative to bits per pixel.
        iterations: Training steps.
        output: Output folder for checkpoint, metrics and weights.
        metric: Distortion, mse or ms-ssim.
        batch_size: Crops per step.
        patch_size: Side of a crop in pixels, a multiple of 64.
        learning_rate: Initial learning rate.
        seed: Random seed of weights and crops.
        initial_weights: Weights to initialize from, such as those of another quality.
        workers: Number of processes that load images.
        threads: Number of CPU threads.
        checkpoint_every: Iterations between checkpoints.
        resume: Continue from the checkpoint in the output folder.
    """
    import torch

    from cdl_d2.codec.learning.training import CodecTraining, train_codec
    from cdl_d2.device import usable_device

    if threads:
        torch.set_num_threads(threads)
    path = train_codec(
        CodecTraining(
            codec,
            quality,
            metric,
            lmbda,
            iterations,
            batch_size=batch_size,
            patch_size=patch_size,
            learning_rate=learning_rate,
            seed=seed,
        ),
        images,
        output,
        initial_weights=initial_weights,
        device=usable_device(device),
        resume=resume,
        checkpoint_every=checkpoint_every,
        workers=workers,
    )
    print(f"weights: {path} ({path.stat().st_size / 1e6:.2f} MB)")
