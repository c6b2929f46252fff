"""`cdl data`: synthesize or import data sets, encode them into latent stores."""

from __future__ import annotations

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
    """Make data sets of images, label maps and attributes of CelebAMask-HQ as it is distributed.

    ```
    cdl data import-celebamask CelebAMask-HQ --output faces
    ```

    Writes `train`, `val` and `test`, as CelebA is split: `images/` of 512 pixels, as the masks
    have, `labels/` with 18 parts and the background, `attributes.csv` and `classes.txt`. Run it
    again after an interruption: finished images are kept. The exit status is 1 if an image failed.

    Args:
        folder: With CelebA-HQ-img, CelebAMask-HQ-mask-anno and the two text files.
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
    """Encode a data set into a latent store, for training and evaluation without an encoder.

    The images of a COCO-format data set, at the size of evaluation:

    ```
    cdl data encode --images val2017 --annotations instances_val2017.json \\
        --codec bmshj2018-hyperprior --quality 4 --short-edges 800 \\
        --output latents/val
    ```

    The six sizes of training, flipped and not, as bitstreams, on one of eight machines:

    ```
    cdl data encode --images train2017 --codec bmshj2018-hyperprior --quality 4 \\
        --short-edges 640 672 704 736 768 800 --flip --form bitstreams \\
        --output latents/train --shard 0/8
    ```

    Run it again after an interruption: finished shards are kept, damaged ones made anew. Under
    torchrun or as a SLURM array each process takes its own shards. The exit status is 1 if an image
    failed.

    Args:
        output: Folder of the store.
        images: Folder of images.
        dataset: Instead of a folder, a data set that Detectron2 knows by this name.
        annotations: COCO-format JSON: only its images, not the whole folder.
        form: arrays, fast to read, or bitstreams, smallest.
        short_edges: Sizes in pixels; default as the images are.
        max_size: Of the longer side, where resized.
        flip: Store every size flipped as well.
        shard_size: Images a file.
        shard: Encode part i (from 0) of n; default from torchrun or SLURM, or all.
        workers: Processes, default one a core; 0 for none.
        batch_size: Images at a time, on a GPU.
        ray: On the CPUs of the Ray cluster that this machine is in.
        renew: Encode anew what holds images that have changed since; the annotations may have, too.
    """
    from cdl_d2.data import Plan, Variant
    from cdl_d2.data.datasets.sources import find_images_of, part_of
    from cdl_d2.data.store.whole_dataset import encode_dataset
    from cdl_d2.device import usable_device
    from cdl_d2.files import sha256_of

    if (images is None) == (dataset is None):
        raise CdlError("give either --images or --dataset")
    part = part_of(shard)
    if dataset is not None:
        from cdl_d2.d2.data.coco_datasets import images_of_dataset

        if annotations is not None:
            raise CdlError("--annotations belongs to --images: a data set has its own")
        images, names = images_of_dataset(dataset)
    else:
        names = find_images_of(images, annotations)
    edges, flips = short_edges or [0], (False, True) if flip else (False,)
    variants = tuple(Variant(edge, max_size, flipped) for edge in edges for flipped in flips)
    loaded = codec.choice().load()
    failed, everywhere = encode_dataset(
        loaded,
        Plan(
            loaded.identity,
            form,
            variants,
            tuple(names),
            shard_size,
            annotations=sha256_of(annotations) if annotations else "",
        ),
        images,
        output,
        lambda error: report("cdl data encode", error),
        part=part,
        workers=workers,
        batch_size=batch_size,
        device=usable_device(device),
        with_ray=ray,
        renew=renew,
    )
    if everywhere is None:
        print("this part is done; the store is complete when the others are")
        return 1 if failed else 0
    print(f"{output} is complete: {len(names)} images, {len(everywhere)} of them failed")
    return 1 if everywhere else 0


@app.command
def verify(
    store: Path,
    /,
    *,
    images: Path | None = None,
    annotations: Path | None = None,
    quick: bool = False,
) -> int:
    """Say what of a latent store is missing, damaged or stale, and what mends it.

    ```
    cdl data verify latents/val --images val2017
    cdl data verify latents/val --quick
    ```

    The exit status is 1 if something is.

    Args:
        store: Its folder.
        images: The folder that it was encoded from, to find images that have changed since.
        annotations: The COCO-format JSON that named them, to find out whether that has changed.
        quick: Look at sizes, times and what shards say of themselves; not at every byte.
    """
    from cdl_d2.data.store.verification import verify_store

    found = 0
    for line in verify_store(store, images, quick, annotations):
        found += 1
        report("cdl data verify", line)
    if not found:
        print(f"{store} is as it should be")
    return 1 if found else 0
