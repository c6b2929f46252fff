"""A user's training script, that knows Detectron2 alone: trains, loads what it saved, evaluates."""

import os

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.data import build_detection_test_loader, build_detection_train_loader
from detectron2.engine import default_argument_parser, default_setup, launch
from detectron2.evaluation import COCOEvaluator, inference_on_dataset
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler, build_optimizer
from detectron2.utils.events import EventStorage, JSONWriter


def train(cfg, model):
    optimizer = build_optimizer(cfg, model)
    scheduler = build_lr_scheduler(cfg, optimizer)
    checkpointer = DetectionCheckpointer(model, cfg.OUTPUT_DIR, optimizer=optimizer)
    checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=False)
    writer = JSONWriter(os.path.join(cfg.OUTPUT_DIR, "metrics.json"))
    batches = iter(build_detection_train_loader(cfg))
    model.train()
    with EventStorage() as storage:
        for _ in range(cfg.SOLVER.MAX_ITER):
            losses = model(next(batches))
            total = sum(losses.values())
            assert torch.isfinite(total), losses
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            scheduler.step()
            storage.put_scalars(**{name: loss.item() for name, loss in losses.items()})
            writer.write()
            storage.step()
    checkpointer.save("model_final")


def main(arguments):
    cfg = get_cfg()
    cfg.merge_from_file(arguments.config_file)
    cfg.merge_from_list(arguments.opts)
    cfg.freeze()
    default_setup(cfg, arguments)
    train(cfg, build_model(cfg))

    model = build_model(cfg)
    DetectionCheckpointer(model).load(os.path.join(cfg.OUTPUT_DIR, "model_final.pth"))
    [name] = cfg.DATASETS.TEST
    evaluator = COCOEvaluator(name, output_dir=cfg.OUTPUT_DIR)
    inference_on_dataset(model, build_detection_test_loader(cfg, name), evaluator)


if __name__ == "__main__":
    arguments = default_argument_parser().parse_args()
    launch(main, arguments.num_gpus, args=(arguments,))
