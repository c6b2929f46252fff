"""A user of exported graphs: finds the objects of an R-CNN by its card, and nothing else."""

import torch
from torchvision.ops import batched_nms, clip_boxes_to_image, roi_align


def find_objects(graphs, card, shown, size):
    """Boxes, scores and labels in an image.

    Args:
        graphs: by name, with `inputs` and `run`, as Graph has them.
        shown: 1 x C x h x w, padded.
        size: (H, W) in pixels that are not padding.
    """
    known, strides = card["post_processing"], card["strides"]
    pyramid = dict(zip(strides, graphs["backbone"].run([shown]), strict=True))
    levels = list(known["anchors"])
    outputs = graphs["rpn"].run([pyramid[level] for level in levels])
    found = [
        best_anchors(known, level, strides[level], objectness[0], deltas[0])
        for level, objectness, deltas in zip(
            levels, outputs[: len(levels)], outputs[len(levels) :], strict=True
        )
    ]
    groups = torch.cat([torch.full_like(scores, i) for i, (_, scores) in enumerate(found)])
    boxes, scores = (torch.cat(each) for each in zip(*found, strict=True))
    regions, *_ = kept(known["proposals"], boxes, scores, groups, size)
    side = graphs["box"].inputs["pooled"][-1]
    pooled = pool(known["pooling"]["box"], pyramid, strides, regions, side)
    logits, deltas = graphs["box"].run([pooled])
    probabilities = logits.softmax(1)
    first = card["background"].startswith("the first")
    probabilities = probabilities[:, 1:] if first else probabilities[:, :-1]
    count = probabilities.shape[1]
    deltas = deltas.reshape(len(deltas), -1, 4)[:, -count:]
    each = regions.repeat_interleave(count, 0)
    boxes = decode(each, deltas.reshape(-1, 4), known["detections"], "box")
    labels = torch.arange(count).repeat(len(regions))
    return kept(known["detections"], boxes, probabilities.flatten(), labels, size)


def best_anchors(known, level, stride, objectness, deltas):
    """The decoded candidates of a level, and their scores."""
    count, height, width = objectness.shape
    scores = objectness.permute(1, 2, 0).flatten()
    deltas = deltas.reshape(count, 4, height, width).permute(2, 3, 0, 1).reshape(-1, 4)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    shifts = stride * (torch.stack([x, y, x, y], -1) + known["anchor_offset"])
    anchors = (shifts[:, :, None] + torch.tensor(known["anchors"][level])).reshape(-1, 4)
    top = scores.topk(min(len(scores), known["proposals"]["candidates"])).indices
    return decode(anchors[top], deltas[top], known["proposals"], "rpn"), scores[top].sigmoid()


def decode(boxes, deltas, step, graph):
    sides = boxes[:, 2:] - boxes[:, :2]
    deltas = deltas / torch.tensor(step["weights"][graph])
    centers = boxes[:, :2] + sides / 2 + deltas[:, :2] * sides
    sides = sides * deltas[:, 2:].clamp(max=step["scale_clamp"]).exp()
    return torch.cat([centers - sides / 2, centers + sides / 2], 1)


def kept(step, boxes, scores, groups, size):
    boxes = clip_boxes_to_image(boxes, size)
    large = ((boxes[:, 2:] - boxes[:, :2]) >= step["smallest_side"]).all(1)
    good = (large & (scores > step["score_threshold"])).nonzero()[:, 0]
    boxes, scores, groups = boxes[good], scores[good], groups[good]
    best = batched_nms(boxes, scores, groups, step["nms_threshold"])[: step["kept"]]
    return boxes[best], scores[best], groups[best]


def pool(how, pyramid, strides, regions, side):
    sizes = ((regions[:, 2:] - regions[:, :2]).prod(1)).sqrt()
    wanted = how["canonical_level"] + torch.log2(sizes / how["canonical_size"] + 1e-8).floor()
    stages = torch.tensor([strides[level] for level in how["levels"]]).log2()
    wanted = wanted.clamp(stages.min(), stages.max())
    channels = pyramid[how["levels"][0]].shape[1]
    pooled = torch.zeros(len(regions), channels, side, side)
    for level, stage in zip(how["levels"], stages, strict=True):
        here = wanted == stage
        options = how["sampling_ratio"], how["aligned"]
        pooled[here] = roi_align(
            pyramid[level], [regions[here]], side, 1 / strides[level], *options
        )
    return pooled
