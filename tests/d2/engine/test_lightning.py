"""A student in a LightningModule, as Detectron2's lightning_train_net.py has a model."""

import pytest
import torch

pytest.importorskip("detectron2", reason="Detectron2 is not installed")
pytest.importorskip("pytorch_lightning", reason="Lightning is not installed")

import pytorch_lightning as lightning
from detectron2.solver import build_optimizer
from detectron2.utils.events import EventStorage

from tests.d2.conftest import make_item, small_model


class Training(lightning.LightningModule):
    def __init__(self, cfg):
        super().__init__()
        self.cfg, self.model, self.losses = cfg, small_model(cfg), []

    def training_step(self, batch, index):
        with EventStorage(index):
            self.losses.append(self.model(batch))
        return sum(self.losses[-1].values())

    def configure_optimizers(self):
        return build_optimizer(self.cfg, self.model)


def test_lightning_trains_a_student_and_does_not_see_its_teacher(transfer_cfg, tmp_path):
    module = Training(transfer_cfg)
    before = {name: value.clone() for name, value in module.model.named_parameters()}
    items = [make_item(64, 64), make_item(64, 96, seed=1)]
    batches = torch.utils.data.DataLoader(items, batch_size=2, collate_fn=list)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(
        max_steps=2,
        accelerator="cpu",
        default_root_dir=tmp_path,
        enable_checkpointing=False,
        **quiet,
    )
    trainer.fit(module, batches)
    assert len(module.losses) == 2 and "loss_transfer_features" in module.losses[0]
    after = dict(module.model.named_parameters())
    assert sum(not torch.equal(before[name], after[name]) for name in before) > len(before) / 2
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    saved = torch.load(tmp_path / "last.ckpt", weights_only=False)["state_dict"]
    assert {f"model.{name}" for name in module.model.state_dict()} == saved.keys()
