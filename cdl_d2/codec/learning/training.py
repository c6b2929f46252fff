"""Training of a codec: rate + lambda * distortion on random crops of photographs.

A crop depends on the seed and its index only, the noise of an iteration on the seed and the
iteration, on any device: resuming a run gives the same weights as not interrupting it.
"""

from __future__ import annotations

import json
import math
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.functional import hflip
from tqdm import tqdm

from cdl_d2.codec.io.image_files import find_images, read_image
from cdl_d2.codec.io.weights_file import (
    load_state_dict,
    read_weights,
    save_checkpoint,
    save_weights,
)
from cdl_d2.codec.latent import CODING_MULTIPLE
from cdl_d2.codec.networks import network_from_weights
from cdl_d2.codec.registry import get_architecture
from cdl_d2.errors import CdlError, DivergedError
from cdl_d2.seeds import seed_all
from cdl_d2.workers import end_with_parent

CHECKPOINT, WEIGHTS = "checkpoint.pth", "model.safetensors"  # in the output folder
ITERATIONS_PER_LOG = 100


@dataclass(frozen=True)
class CodecTraining:
    """Hyperparameters of a codec's training.

    `lmbda` is the weight of the distortion relative to bits per pixel. The distortion is the mean
    squared error on the 0..255 scale (CompressAI's values: 0.0018 to 0.18) or, for metric ms-ssim,
    1 - MS-SSIM (CompressAI's: 2.4 to 220).
    """

    name: str
    quality: int
    metric: str
    lmbda: float
    iterations: int
    batch_size: int = 8
    patch_size: int = 192
    learning_rate: float = 1e-3
    clip_norm: float = 1.0
    seed: int = 0

    def __post_init__(self):
        architecture = get_architecture(self.name)
        architecture.check_choice(self.quality, self.metric, own_weights=True)
        if not architecture.is_trainable:
            raise CdlError(
                f"{self.name} has several rates, which are not trained here: train it with "
                "CompressAI, and use the file of its weights"
            )
        if min(self.iterations, self.batch_size) < 1:
            raise CdlError(
                f"{self.iterations} iterations of {self.batch_size} crops: both must be at least 1"
            )
        smallest = CODING_MULTIPLE if self.metric == "mse" else 3 * CODING_MULTIPLE
        if self.patch_size < smallest or self.patch_size % CODING_MULTIPLE:
            raise CdlError(
                f"patch size {self.patch_size} is not a multiple of {CODING_MULTIPLE} from "
                f"{smallest} (MS-SSIM needs more than 160 pixels)"
            )


class RandomCrops(Dataset):
    """Random crops, 3 x patch x patch, float, RGB in [0, 1], flipped half of the time.

    Crop i depends on the images, `seed` and i only. An image that cannot be read or is smaller than
    a patch is replaced by the next one, with a warning.

    Raises:
        CdlError: if the folder has no image; by indexing, if no image is usable.
    """

    def __init__(self, folder: Path, patch_size: int, count: int, seed: int):
        self.paths = find_images(folder)
        self.patch_size, self.count, self.seed = patch_size, count, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> torch.Tensor:
        rng = torch.Generator().manual_seed(self.seed * 1_000_003 + index)

        def draw(high: int) -> int:
            return int(torch.randint(high, (1,), generator=rng))

        image = self._image_from(draw(len(self.paths)))
        (height, width), size = image.shape[1:], self.patch_size
        top, left = draw(height - size + 1), draw(width - size + 1)
        crop = image[:, top : top + size, left : left + size].float() / 255
        return hflip(crop) if draw(2) else crop

    def _image_from(self, start: int) -> torch.Tensor:
        """Read the first usable image of the list, beginning at an index."""
        size, reason = self.patch_size, ""
        for path in self.paths[start:] + self.paths[:start]:
            try:
                image = read_image(path)
            except (CdlError, OSError) as error:
                reason = str(error)
            else:
                height, width = image.shape[1:]
                if min(height, width) >= size:
                    return image
                reason = f"{path} is {width}x{height}, smaller than the patch size {size}"
            warnings.warn(f"{reason}: another image is used", stacklevel=2)
        raise CdlError(f"no image can be used for training; the last: {reason}")


def train_codec(
    plan: CodecTraining,
    images: Path,
    output: Path,
    *,
    initial_weights: Path | None = None,
    device: str = "cpu",
    resume: bool = False,
    checkpoint_every: int = 500,
    workers: int = 0,
) -> Path:
    """Train a codec, and return the path of its weights, `output/model.safetensors`.

    `output/checkpoint.pth` is replaced atomically every `checkpoint_every` iterations, and
    `output/metrics.jsonl` gets a line every 100 iterations.

    Raises:
        CdlError: if there is no image; if the folder has a training and `resume` is false; if the
            checkpoint has other hyperparameters.
        DivergedError: if the loss is not finite.
    """
    from compressai.losses import RateDistortionLoss

    if checkpoint_every < 1:
        raise CdlError(f"checkpoint_every {checkpoint_every} is less than 1")
    existing = [name for name in (CHECKPOINT, WEIGHTS) if (output / name).exists()]
    if existing and not resume:
        raise CdlError(
            f"{output} has {existing[0]} of a training: resume it, or choose another folder"
        )
    output.mkdir(parents=True, exist_ok=True)
    network = _build_network(plan, initial_weights).to(device).train()
    criterion = RateDistortionLoss(lmbda=plan.lmbda, metric=plan.metric)
    optimizers, schedule = _build_optimizers(network, plan)

    checkpoint = output / CHECKPOINT
    start = _restore(checkpoint, plan, network, optimizers, schedule) if resume else 0
    crops = RandomCrops(images, plan.patch_size, plan.iterations * plan.batch_size, plan.seed)
    remaining = range(start * plan.batch_size, len(crops))
    # With its own generator, the loader does not advance the global one.
    loader = DataLoader(
        crops,
        plan.batch_size,
        sampler=remaining,
        num_workers=workers,
        worker_init_fn=end_with_parent,
        generator=torch.Generator().manual_seed(plan.seed),
    )
    progress = tqdm(loader, initial=start, total=plan.iterations, unit="it", desc=output.name)
    for iteration, batch in enumerate(progress, start=start + 1):
        seed_all(plan.seed, iteration)
        losses = _step(network, criterion, batch.to(device), optimizers, plan)
        schedule.step()
        if iteration % ITERATIONS_PER_LOG == 0:
            _log(output / "metrics.jsonl", iteration, losses)
            progress.set_postfix(
                bpp=f"{float(losses['bpp_loss']):.3f}", loss=f"{float(losses['loss']):.3f}"
            )
        if iteration % checkpoint_every == 0 or iteration == plan.iterations:
            _save(checkpoint, iteration, plan, network, optimizers, schedule)
    return _export(network, plan, output / WEIGHTS)


def _build_network(plan: CodecTraining, initial_weights: Path | None) -> nn.Module:
    torch.manual_seed(plan.seed)
    if initial_weights is None:
        return get_architecture(plan.name).new_network(plan.quality)
    state = load_state_dict(initial_weights)
    return network_from_weights(plan.name, plan.quality, state, initial_weights)


def _build_optimizers(network: nn.Module, plan: CodecTraining):
    main = [p for n, p in network.named_parameters() if not n.endswith(".quantiles")]
    quantiles = [p for n, p in network.named_parameters() if n.endswith(".quantiles")]
    optimizers = {
        "main": torch.optim.Adam(main, lr=plan.learning_rate),
        "quantiles": torch.optim.Adam(quantiles, lr=1e-3),
    }

    def warm_up_then_cosine(iteration: int) -> float:
        warm = min(1.0, (iteration + 1) / 100)
        return warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * iteration / plan.iterations)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizers["main"], warm_up_then_cosine)
    return optimizers, schedule


def _step(network, criterion, batch, optimizers, plan) -> dict:
    losses = criterion(network(batch), batch)
    if not torch.isfinite(losses["loss"]):
        raise DivergedError(
            f"the loss is {float(losses['loss'])}: reduce the learning rate, {plan.learning_rate}"
        )
    for optimizer in optimizers.values():
        optimizer.zero_grad()
    losses["loss"].backward()
    nn.utils.clip_grad_norm_(network.parameters(), plan.clip_norm)
    optimizers["main"].step()
    network.aux_loss().backward()
    optimizers["quantiles"].step()
    return losses


def _log(path: Path, iteration: int, losses: dict) -> None:
    values = {name: float(value.detach()) for name, value in losses.items()}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"iteration": iteration, **values}) + "\n")


def _save(path, iteration, plan, network, optimizers, schedule) -> None:
    state = {
        "iteration": iteration,
        "plan": asdict(plan),
        "network": network.state_dict(),
        "optimizers": {name: o.state_dict() for name, o in optimizers.items()},
        "schedule": schedule.state_dict(),
    }
    save_checkpoint(path, state)


def _restore(path, plan, network, optimizers, schedule) -> int:
    if not path.exists():
        return 0
    state = read_weights(path)
    if state.get("plan") != asdict(plan):
        raise CdlError(f"{path} was trained with {state.get('plan')}, not {asdict(plan)}")
    network.load_state_dict(state["network"])
    for name, optimizer in optimizers.items():
        optimizer.load_state_dict(state["optimizers"][name])
    schedule.load_state_dict(state["schedule"])
    return state["iteration"]


def _export(network: nn.Module, plan: CodecTraining, path: Path) -> Path:
    network.eval()
    network.update(force=True, update_quantiles=True)
    details = {key: str(value) for key, value in asdict(plan).items()}
    save_weights(path, network, details)
    return path
