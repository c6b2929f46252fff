"""A user's training script of LazyConfigs, that knows Detectron2 alone: trains and evaluates."""

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyConfig, instantiate
from detectron2.engine import SimpleTrainer, default_argument_parser, default_setup, hooks
from detectron2.evaluation import inference_on_dataset
from detectron2.utils.events import JSONWriter


def main(arguments):
    cfg = LazyConfig.load(arguments.config_file)
    cfg = LazyConfig.apply_overrides(cfg, arguments.opts)
    default_setup(cfg, arguments)
    model = instantiate(cfg.model)
    model.to(cfg.train.device)
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    trainer = SimpleTrainer(model, instantiate(cfg.dataloader.train), optimizer)
    checkpointer = DetectionCheckpointer(model, cfg.train.output_dir, trainer=trainer)
    writer = JSONWriter(f"{cfg.train.output_dir}/metrics.json")
    trainer.register_hooks(
        [
            hooks.LRScheduler(scheduler=instantiate(cfg.lr_multiplier)),
            hooks.PeriodicCheckpointer(checkpointer, **cfg.train.checkpointer),
            hooks.PeriodicWriter([writer], period=1),
        ]
    )
    checkpointer.resume_or_load(cfg.train.init_checkpoint, resume=False)
    trainer.train(0, cfg.train.max_iter)
    evaluator = instantiate(cfg.dataloader.evaluator)
    inference_on_dataset(model, instantiate(cfg.dataloader.test), evaluator)


if __name__ == "__main__":
    main(default_argument_parser().parse_args())
