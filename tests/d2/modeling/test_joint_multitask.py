import re

import pytest
import torch

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.utils.events import EventStorage

from cdl_d2.codec import Codec
from cdl_d2.d2 import SafeCheckpointer, Trainer
from cdl_d2.d2.modeling.optimizers import Optimizers
from cdl_d2.errors import CdlError
from tests.d2.modeling.test_multitask import make_item, tiny_cfg, tiny_model

CODING = {"loss_rate", "loss_distortion", "loss_quantiles"}
JUDGED = {"loss_adversarial", "loss_discriminator"}
TASKS = {"loss_attributes", "loss_parsing"}
NAMES = ["tiny-zhang2022", "tiny-zhang2022-layered"]


def joint_cfg(*options):
    return tiny_cfg(
        "joint",
        *("MODEL.CODEC.NAME", "tiny-zhang2022", "MODEL.CODEC.WEIGHTS", "untrained"),
        *("MODEL.JOINT.PERCEPTUAL_WEIGHT", 0.0, "MODEL.JOINT.PERCEPTUAL", "none"),
        *("MODEL.JOINT.ADVERSARIAL_FROM", 1, "MODEL.JOINT.TASKS_FROM", 2),
        *options,
    )


@pytest.fixture
def items():
    return [make_item(64, 64), make_item(64, 64, seed=1)]


def losses_at(model, items, iteration):
    with EventStorage(iteration) as storage:
        losses = model.train()(items)
        return losses, storage.latest()


def learned(module):
    return [p for p in module.parameters() if p.grad is not None and p.grad.any()]


@pytest.mark.parametrize("name", NAMES)
def test_discriminator_and_tasks_join_at_their_iterations(items, name):
    model = tiny_model(joint_cfg("MODEL.CODEC.NAME", name))
    assert losses_at(model, items, 0)[0].keys() == CODING
    assert losses_at(model, items, 1)[0].keys() == CODING | JUDGED
    losses, watched = losses_at(model, items, 2)
    assert losses.keys() == CODING | JUDGED | TASKS
    assert watched["codec/bpp"][0] > 0


def test_parameters_are_counted_without_and_with_the_codec():
    joint = tiny_model(joint_cfg())
    untrained = ("MODEL.CODEC.NAME", "tiny-zhang2022", "MODEL.CODEC.WEIGHTS", "untrained")
    frozen = tiny_model(tiny_cfg("latent", *untrained))
    counts = joint.parameter_counts()
    assert counts == frozen.parameter_counts()
    learned = [*joint.objective.discriminator.parameters(), *joint.trained_codec.parameters()]
    task_count = sum(p.numel() for p in joint.parameters()) - sum(p.numel() for p in learned)
    assert counts["parameters"] == task_count
    assert counts["codec"] == sum(p.numel() for p in joint.trained_codec.parameters())
    assert tiny_model(tiny_cfg("pixel")).parameter_counts()["codec"] == 0


def test_codec_and_discriminator_do_not_move_each_other(items):
    model = tiny_model(joint_cfg())
    losses = losses_at(model, items, 1)[0]
    losses["loss_discriminator"].backward(retain_graph=True)
    assert learned(model.objective.discriminator) and not learned(model.trained_codec)
    model.zero_grad()
    losses["loss_adversarial"].backward()
    assert learned(model.trained_codec) and not learned(model.objective.discriminator)


def test_every_task_reaches_the_encoder(items):
    model = tiny_model(joint_cfg())
    losses = losses_at(model, items, 2)[0]
    for task in TASKS:
        model.zero_grad()
        losses[task].backward(retain_graph=True)
        assert learned(model.trained_codec.network.g_a) and learned(model.backbone)
        assert not learned(model.trained_codec.network.g_s)


def test_on_a_frozen_codec_only_the_tasks_learn(items):
    model = tiny_model(joint_cfg("MODEL.JOINT.TRAIN", ("task",), "MODEL.JOINT.TASKS_FROM", 0))
    sum(losses_at(model, items, 0)[0].values()).backward()
    assert learned(model.backbone) and learned(model.heads) and not learned(model.trained_codec)


def test_codec_and_tasks_learn_in_turn(items):
    model = tiny_model(
        joint_cfg("MODEL.JOINT.STEPS", "alternate", "MODEL.JOINT.ADVERSARIAL_WEIGHT", 0.0)
    )
    for iteration, codec_learns in ((2, True), (3, False)):
        model.zero_grad(set_to_none=True)
        sum(losses_at(model, items, iteration)[0].values()).backward()
        assert bool(learned(model.trained_codec)) == codec_learns
        assert bool(learned(model.backbone)) != codec_learns


def test_a_codec_can_learn_without_tasks(items, tmp_path):
    model = tiny_model(joint_cfg("MODEL.TASKS.NAMES", (), "MODEL.TASKS.WEIGHTS", ()))
    assert losses_at(model, items, 2)[0].keys() == CODING | JUDGED
    model.save_artifacts(tmp_path)
    codec = Codec.load("tiny-zhang2022", 2, weights=str(tmp_path / "codec.safetensors"))
    image = items[0]["image"].float() / 255
    stream = codec.compress(image)
    there = model.eval().coded_input.codec
    assert there.identity == codec.identity
    assert torch.equal(there.decompress(stream).y_hat, codec.encode(image).y_hat)


def test_evaluation_sees_the_codec_as_it_is_now_and_a_state_has_it_all(items):
    cfg = joint_cfg("TEST.DISTORTION", True)
    model = tiny_model(cfg)
    before = model.eval()(items[:1])[0]
    optimizer = Trainer.build_optimizer(cfg, model)
    assert isinstance(optimizer, Optimizers)
    sum(losses_at(model, items, 2)[0].values()).backward()
    optimizer.step()
    after = model.eval()(items[:1])[0]
    assert after["bits"] != before["bits"] and after["psnr"] != before["psnr"]
    loaded = tiny_model(cfg)
    loaded.load_state_dict(model.state_dict())
    again = loaded.eval()(items[:1])[0]
    assert torch.equal(again["sem_seg"], after["sem_seg"]) and again["bits"] == after["bits"]


def test_a_codec_is_not_trained_by_sgd():
    cfg = joint_cfg("SOLVER.OPTIMIZER", "SGD")
    with pytest.raises(CdlError, match=r"SGD.*ADAMW"):
        Trainer.build_optimizer(cfg, tiny_model(cfg))


def test_both_optimizers_are_resumed(items, tmp_path):
    cfg = joint_cfg("MODEL.JOINT.ADVERSARIAL_FROM", 0)

    def make():
        model = tiny_model(cfg)
        return model, Trainer.build_optimizer(cfg, model)

    def step(model, optimizer, iteration):
        torch.manual_seed(iteration)
        optimizer.zero_grad()
        sum(losses_at(model, items, iteration)[0].values()).backward()
        optimizer.step()

    model, optimizer = make()
    step(model, optimizer, 0)
    SafeCheckpointer(model, str(tmp_path), optimizer=optimizer).save("one")
    loaded, optimizer_2 = make()
    SafeCheckpointer(loaded, str(tmp_path), optimizer=optimizer_2).load(str(tmp_path / "one.pth"))
    for pair in ((model, optimizer), (loaded, optimizer_2)):
        step(*pair, 1)
    states = [m.state_dict() for m in (model, loaded)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.parametrize("user", [("MODEL.JOINT.PERCEPTUAL_WEIGHT", 0.1), ()])
def test_the_perceptual_network_is_read_from_the_file_that_is_named(user, tmp_path):
    pytest.importorskip("lpips")
    file = tmp_path / "alexnet.pth"
    options = ["MODEL.JOINT.PERCEPTUAL", "lpips-alex", "MODEL.JOINT.PERCEPTUAL_FILE", str(file)]
    with pytest.raises((CdlError, FileNotFoundError), match=re.escape(str(file))):
        tiny_model(joint_cfg(*options, *user, "TEST.DISTORTION", not user))


def test_images_of_several_sizes_cannot_be_coded_together(items):
    with pytest.raises(CdlError, match="several sizes"):
        losses_at(tiny_model(joint_cfg()), [items[0], make_item(64, 96)], 0)
