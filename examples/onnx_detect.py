"""Detect the objects in a compressed image by an exported graph, with onnxruntime and numpy.

    cdl export output/converted --output exported      # writes detector.onnx and card.json
    python examples/onnx_detect.py exported photo.cdlz # cdl_d2.codec reads the bitstream
    python examples/onnx_detect.py exported photo.cdlz codec.pth  # weights of your own codec
    python examples/onnx_detect.py exported photo.npz  # y_hat, M x h x w, and image_size, (H, W)

y_hat are all coded positions if card.json has "margin", else those that the image covers.

Without this package, y_hat can come from exported/encoder.onnx, or from your own decoder.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime


def read_latent(path, card, weights=""):
    """Return y_hat, M x h x w, and (H, W) of the image in pixels; `weights` are the codec's."""
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return arrays["y_hat"], arrays["image_size"]
    from cdl_d2.codec import Bitstream, Codec

    name, quality, metric = (card["codec"][key] for key in ("name", "quality", "metric"))
    latent = Codec.load(name, quality, metric, str(weights)).decompress(Bitstream.load(path))
    y_hat = latent.cells_and_margin if "margin" in card else latent.cells
    return y_hat.numpy(), latent.image_size


def detect(session, y_hat, image_size):
    """Return boxes (D x 4), scores (D), classes (D) and, of a Mask R-CNN, masks (D x S x S)."""
    size = np.asarray(image_size, dtype=np.int64)
    return session.run(None, {"y_hat": y_hat[None], "image_size": size})


def paste(mask, box, size):
    """Return a mask of probabilities on its box, S x S, as H x W booleans, by linear resizing."""
    left, top, right, bottom = box

    def weights(start, end, pixels):
        at = (np.arange(pixels) + 0.5 - start) / (end - start) * len(mask) - 0.5
        return np.maximum(1 - np.abs(at[:, None] - np.arange(len(mask))), 0)

    return weights(top, bottom, size[0]) @ mask @ weights(left, right, size[1]).T > 0.5


def main(folder, path, weights=""):
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    session = onnxruntime.InferenceSession(folder / card["graphs"]["detector"]["file"])
    y_hat, image_size = read_latent(path, card, weights)
    boxes, scores, classes, *masks = detect(session, y_hat, image_size)
    for i, (box, score) in enumerate(zip(boxes, scores, strict=True)):
        area = f", {paste(masks[0][i], box, image_size).sum()} pixels" if masks else ""
        print(f"{card['class_names'][classes[i]]} {score:.2f} at {np.round(box, 1)}{area}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
