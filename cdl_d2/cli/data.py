"""`cdl data`: synthesize or import data sets, encode them into latent stores."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from cdl_d2.cli.options import CodecOptions, Device, NotNegative, Positive
from cdl_d2.cli.output import for_each, report
from cdl_d2.errors import CdlError

app = App(name="data", help="Synthesize or import data sets, encode them into latent stores.")


@app.command
def synthesize(
    *,
    task: Literal["detection", "segmentation", "multitask", "classification"],
    output: Path,
    count: Positive,
    size: tuple[Positive, Positive] = (192, 192),
    seed: NotNegative = 0,
) -> None:
    """Synthesize a data set of textured shapes in five classes.

    ```
    cdl data synthesize --task detection --count 300 --output shapes/train
    cdl data synthesize --task detection --count 60 --seed 1 --output shapes/val
    ```

    `detection` writes annotations.json (COCO format) and images/; `segmentation` writes images/
    and labels/; `multitask` also writes attributes.csv, the shapes in each image;
    `classification` writes one folder of images per class. Equal arguments give equal files.

    Args:
        task: Task to write annotations for.
        output: Folder of the data set; must be empty.
        count: Number of images.
        size: Height and width in pixels.
        seed: Random seed.
    """
    from tqdm import tqdm

    from cdl_d2.data.datasets.synthetic import WRITERS
    from cdl_d2.files import check_empty_folder

    check_empty_folder(output)
    for _ in tqdm(WRITERS[task](output, count, size, seed), total=count, unit="image"):
        pass
    print(f"{count} images in {output}")


@app.command
def import_celebamask(folder: Path, /, *, output: Path) -> int:
    """Convert CelebAMask-HQ to data sets of images, label maps and attributes.

    ```
    cdl data import-celebamask CelebAMask-HQ --output faces
    ```

    Writes the splits of CelebA to `train`, `val` and `test`: `images/` of 512 pixels, the size of
    the masks, `labels/` with 18 parts and the background, `attributes.csv` and `classes.txt`. Run
    it again after an interruption: finished images are kept. The exit status is 1 if an image
    failed.

    Args:
        folder: Folder with CelebA-HQ-img, CelebAMask-HQ-mask-anno and the two text files.
        output: Folder of the data sets.
    """
    from cdl_d2.data.datasets.celebamask import CelebAMask

    faces = CelebAMask(folder, output)
    status = for_each(faces.images, faces.write, "cdl data import-celebamask")
    for split, count in faces.write_tables().items():
        print(f"{count} images in {output / split}")
    return status


@app.command
def encode(
    *,
    output: Path,
    codec: CodecOptions,
    images: Path | None = None,
    dataset: str | None = None,
    annotations: Path | None = None,
    form: str = "arrays",
    short_edges: Annotated[list[int] | None, Parameter(consume_multiple=True)] = None,
    max_size: int = 1333,
    flip: bool = False,
    shard_size: Positive = 64,
    shard: Annotated[str | None, Parameter(metavar="I/N")] = None,
    workers: NotNegative | None = None,
    batch_size: Positive = 8,
    ray: bool = False,
    renew: bool = False,
    device: Device = None,
) -> int:
    r"""Encode a data set into a latent store, for training and evaluation without an encoder.

    Encode the images of a COCO-format data set at the size of evaluation:

    ```
    cdl data encode --images val2017 --annotations instances_val2017.json \
        --codec bmshj2018-hyperprior --quality 4 --short-edges 800 \
        --output latents/val
    ```

    Encode the six sizes of training, flipped and not, as bitstreams, on one of eight machines:

    ```
    cdl data encode --images train2017 --codec bmshj2018-hyperprior --quality 4 \
        --short-edges 640 672 704 736 768 800 --flip --form bitstreams \
        --output latents/train --shard 0/8
    ```

    Run it again after an interruption: finished shards are kept, corrupted ones encoded again.
    Under torchrun or as a SLURM array, each process encodes its own shards. The exit status is 1 if
    an image failed.

    Args:
        output: Folder of the store.
        images: Folder of images.
        dataset: Name of a data set in Detectron2's catalog, instead of a folder.
        annotations: COCO-format JSON that lists the images, instead of all in the folder.
        form: Record format: arrays (fast to read) or bitstreams (smallest).
        short_edges: Lengths of the shorter side in pixels; default the size of the images.
        max_size: Maximum length of the longer side in pixels, if resized.
        flip: Also store every size flipped.
        shard_size: Images per file.
        shard: Part i (from 0) of n to encode; default from torchrun or SLURM, or all.
        workers: Number of processes; default one per core, 0 for none.
        batch_size: Images per batch on a GPU.
        ray: Use the CPUs of the Ray cluster of this machine.
        renew: Encode images again that have changed, and accept changed annotations.
    """
    from cdl_d2.data import Plan, Variant
    from cdl_d2.data.datasets.image_lists import list_images
    from cdl_d2.data.store.plan import StaleStoreError
    from cdl_d2.data.store.whole_dataset import encode_dataset
    from cdl_d2.device import usable_device
    from cdl_d2.files import sha256_of
    from cdl_d2.workers import read_job_part

    if (images is None) == (dataset is None):
        raise CdlError("give either --images or --dataset")
    part = read_job_part(shard)
    if dataset is not None:
        from cdl_d2.d2.data.coco_datasets import images_of_dataset

        if annotations is not None:
            raise CdlError("--annotations belongs to --images: a data set has its own")
        images, names = images_of_dataset(dataset)
    else:
        names = list_images(images, annotations)
    edges, flips = short_edges or [0], (False, True) if flip else (False,)
    variants = tuple(Variant(edge, max_size, flipped) for edge in edges for flipped in flips)
    network = codec.choice().load()
    annotations_hash = sha256_of(annotations) if annotations else ""
    plan = Plan(
        network.identity, form, variants, tuple(names), shard_size, annotations=annotations_hash
    )
    try:
        failed, failures = encode_dataset(
            network,
            plan,
            images,
            output,
            partial(report, "cdl data encode"),
            part=part,
            renew=renew,
            workers=workers,
            device=usable_device(device),
            batch_size=batch_size,
            with_ray=ray,
        )
    except StaleStoreError as error:
        raise CdlError(
            f"{error}: give --renew to accept the change and encode changed images again, or "
            "choose a new folder"
        ) from error
    if failures is None:
        print("this part is done; the store is complete once all parts are")
        return 1 if failed else 0
    print(f"{output} is complete: {len(names)} images, {len(failures)} of them failed")
    return 1 if failures else 0


@app.command
def verify(
    store: Path,
    /,
    *,
    images: Path | None = None,
    annotations: Path | None = None,
    quick: bool = False,
) -> int:
    """Report what is missing, corrupted or stale in a latent store.

    ```
    cdl data verify latents/val --images val2017
    cdl data verify latents/val --quick
    ```

    The exit status is 1 if there is a problem.

    Args:
        store: Folder of the store.
        images: Folder of the images, to find those that have changed.
        annotations: COCO-format JSON that lists the images, to find changes.
        quick: Check sizes, times and the plans of shards, not every byte.
    """
    from cdl_d2.data.store.verification import verify_store

    problems = 0
    for line in verify_store(store, images, quick, annotations):
        problems += 1
        report("cdl data verify", line)
    if not problems:
        print(f"{store} is complete and valid")
        return 0
    advice = "to fix the store, run the `cdl data encode` that wrote it again"
    report("cdl data verify", f"{advice}; with --renew if images or annotations have changed")
    return 1
