import pytest
import torch

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.utils.events import EventStorage
from torchvision.models import resnet50

from cdl_d2.d2 import SafeCheckpointer, Trainer, build_codec, build_mapper
from cdl_d2.d2.config_files import read_config
from cdl_d2.d2.data.class_mapper import ClassMapper, crop_central_square
from cdl_d2.d2.evaluation.classification import ClassificationEvaluator
from tests.d2.conftest import CONFIGS

FOLDER = CONFIGS / "classification" / "small"
TINY = [
    *("MODEL.LATENT_RESNET.WIDTH", 1 / 16, "MODEL.LATENT_RESNET.CONV4_BLOCKS", [1, 1, 1]),
    *("MODEL.LATENT_RESNET.CONV5_BLOCKS", 1, "MODEL.CLASSIFIER.WIDTH", 1 / 16),
    *("MODEL.CLASSIFIER.NUM_CLASSES", 3, "INPUT.LATENT_RESIZE", 5, "INPUT.LATENT_CROP", 4),
]


def tiny_cfg(name, *options):
    return read_config(FOLDER / f"{name}_small.yaml", [*TINY, *options])


def tiny_model(cfg):
    torch.manual_seed(0)
    return Trainer.build_model(cfg)


def make_items(count=2, size=64):
    generator = torch.Generator().manual_seed(0)
    shape = (count, 3, size, size)
    images = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    return [{"image": image, "label": i % 3} for i, image in enumerate(images)]


@pytest.fixture
def teacher(tmp_path):
    """YAML and weights of a small teacher."""
    cfg = tiny_cfg("pixel_resnet")
    SafeCheckpointer(tiny_model(cfg), str(tmp_path)).save("teacher")
    (tmp_path / "teacher.yaml").write_text(cfg.dump())
    path, weights = str(tmp_path / "teacher.yaml"), str(tmp_path / "teacher.pth")
    return ["MODEL.TEACHER.CONFIG_FILE", path, "MODEL.TEACHER.WEIGHTS", weights]


@pytest.mark.parametrize("name", ["pixel_resnet", "reconstruction_resnet", "cresnet39"])
def test_every_parameter_learns_and_scores_are_probabilities(name):
    model = tiny_model(tiny_cfg(name)).train()
    losses = model(make_items())
    sum(losses.values()).backward()
    assert losses.keys() == {"loss_cls"}
    assert all(p.grad is not None for p in model.parameters())
    outputs = model.eval()(make_items())
    assert all(torch.isclose(o["scores"].sum(), torch.tensor(1.0)) for o in outputs)
    assert all(("bits" in o) == (name != "pixel_resnet") for o in outputs)


def test_all_terms_of_formula_1_train_the_student(teacher):
    model = tiny_model(tiny_cfg("latent_resnet", *teacher)).train()
    losses = model(make_items())
    assert losses.keys() == {"loss_cls", "loss_transfer_c5", "loss_transfer_class"}
    sum(losses.values()).backward()
    taught = model.teacher
    assert all(p.grad is None for p in taught.parameters())
    assert not any(key.startswith("_teacher") for key in model.state_dict())
    both = tiny_model(tiny_cfg("latent_resnet", *teacher, "MODEL.TRANSFER.FEATURES.C4", 0.5))
    assert "loss_transfer_c4" in both.train()(make_items())


def test_torchvisions_resnet50_teaches_without_a_config(tmp_path):
    torch.save(resnet50(num_classes=3).state_dict(), tmp_path / "resnet50.pth")
    options = "MODEL.TEACHER.CONFIG_FILE", "", "MODEL.TEACHER.WEIGHTS", tmp_path / "resnet50.pth"
    cfg = tiny_cfg("latent_resnet", *options[:3], str(options[3]), "MODEL.LATENT_RESNET.WIDTH", 1.0)
    cfg.MODEL.TRANSFER.OUTPUTS.ENABLED = True
    assert "loss_transfer_c5" in tiny_model(cfg).train()(make_items())


def test_an_image_is_classified_as_it_is_alone():
    model, items = tiny_model(tiny_cfg("cresnet39")).eval(), make_items(3)
    together = model(items)
    for item, output in zip(items, together, strict=True):
        assert torch.allclose(model([item])[0]["scores"], output["scores"], atol=1e-6)


def test_the_exact_augmentation_crops_before_encoding(tmp_path, codec):
    from PIL import Image

    pixels = make_items(1, 96)[0]["image"].movedim(0, -1).numpy()
    Image.fromarray(pixels).save(tmp_path / "a.png")
    record = {"file_name": str(tmp_path / "a.png"), "label": 0}
    cfg = tiny_cfg("cresnet39", "INPUT.AUGMENTATION", "exact", "INPUT.LATENT_SOURCE", "mapper")
    mapper = build_mapper(cfg, is_train=True)
    first, second = mapper(record), mapper(record)
    assert first["image"].shape == (3, 128, 128)
    assert not torch.equal(first["image"], second["image"])
    rgb = first["image"].flip(0).float() / 255  # INPUT.FORMAT is BGR
    latent = codec.encode(rgb, with_scales=True)
    assert torch.equal(first["latent"], latent.cells)
    assert torch.equal(first["scales"], latent.crop(latent.scales_hat))
    fixed = ClassMapper(64, False, "RGB")
    assert torch.equal(fixed(record)["image"], fixed(record)["image"])


@pytest.mark.parametrize("size", [(80, 144), (150, 80), (80, 80)])
def test_a_store_shows_the_middle_that_the_mapper_crops(size):
    latent = torch.arange(-(-size[0] // 16) * -(-size[1] // 16)).view(1, -(-size[0] // 16), -1)
    pixels = torch.rand(3, *size)
    item = crop_central_square({"latent": latent, "image": pixels, "image_size": size})
    assert item["image_size"] == item["image"].shape[1:] == (80, 80)
    assert item["latent"].shape == (1, 5, 5)
    top, left = (round((side - 80) / 2 / 16) for side in size)
    assert item["latent"][0, 0, 0] == latent[0, top, left]
    wider = crop_central_square({"latent": latent, "image_size": size}, margin=2)["latent"]
    assert torch.equal(wider, latent[:, top : top + 7, left : left + 7])
    assert torch.equal(item["image"], pixels[:, 16 * top :, 16 * left :][:, :80, :80])
    assert abs(16 * top - (size[0] - 80) / 2) <= 8 >= abs(16 * left - (size[1] - 80) / 2)


def test_accuracies_and_the_confusion_matrix(tmp_path):
    evaluator = ClassificationEvaluator(list("abcdefg"), tmp_path)
    evaluator.reset()
    scores = torch.eye(7) + torch.arange(7, 0, -1) / 100  # all else being equal, a before b ...
    inputs = [{"label": label} for label in (0, 1, 6, 6)]
    outputs = [{"scores": scores[guess]} for guess in (0, 0, 1, 6)]
    evaluator.process(inputs, outputs)
    results = evaluator.evaluate()["classification"]
    assert results["top1"] == 50 and results["top5"] == 75
    assert (results["top1-a"], results["top1-b"], results["top1-g"]) == (100, 0, 50)
    assert "top1-c" not in results
    assert (tmp_path / "confusion_matrix.png").stat().st_size > 1000


def test_images_can_be_coded_at_their_own_size(tmp_path):
    from PIL import Image

    Image.new("RGB", (100, 70)).save(tmp_path / "a.png")
    cfg = tiny_cfg("cresnet39", "INPUT.IMAGE_SIZE", 0)
    item = build_mapper(cfg, is_train=True)({"file_name": str(tmp_path / "a.png"), "label": 0})
    assert item["image"].shape == (3, 70, 100)
    assert tiny_model(cfg).train()([item, *make_items()])["loss_cls"].isfinite()
    cfg.INPUT.AUGMENTATION = "exact"
    with pytest.raises(ValueError, match=r"INPUT\.IMAGE_SIZE"):
        build_mapper(cfg, is_train=True)


@pytest.mark.parametrize(("network", "scales"), [("latent_resnet", False), ("cresnet39", True)])
def test_a_codec_is_tuned_jointly_on_images_of_any_size(network, scales):
    options = ["MODEL.CLASSIFIER.NETWORK", network, "MODEL.CLASSIFIER.LOG_SCALES", False]
    model = tiny_model(tiny_cfg("joint_classifier", *options)).train()
    with EventStorage():
        losses = model(make_items(size=100))
    losses["loss_cls"].backward()
    assert model.coded_input.with_scales == scales
    assert model.trained_codec.network.g_a[0].weight.grad.any()
    assert model.eval()(make_items(size=100))[0]["scores"].isfinite().all()


def test_the_loss_of_validation_is_that_of_training(tmp_path):
    evaluator = ClassificationEvaluator(list("abc"), tmp_path)
    evaluator.reset()
    logits, labels = torch.tensor([[2.0, 0.0, 1.0], [0.0, 3.0, 0.0]]), torch.tensor([2, 0])
    outputs = [{"scores": scores} for scores in logits.softmax(1)]
    evaluator.process([{"label": int(label)} for label in labels], outputs)
    expected = torch.nn.functional.cross_entropy(logits, labels)
    assert evaluator.evaluate()["classification"]["loss"] == pytest.approx(float(expected))
    evaluator.reset()
    evaluator.process([{"label": 1}], [{"scores": torch.tensor([1.0, 0.0, 0.0])}])
    assert 80 < evaluator.evaluate()["classification"]["loss"] < 100  # as near 0 as float32 is


@pytest.mark.parametrize("steps", ["joint", "alternate"])
def test_joint_steps_move_what_they_say(steps):
    model = tiny_model(tiny_cfg("joint_classifier", "MODEL.JOINT.STEPS", steps)).train()
    learned = []
    with EventStorage() as storage:
        for _ in range(2):
            model.zero_grad(set_to_none=True)
            sum(model(make_items()).values()).backward()
            encoder = model.trained_codec.network.g_a[0].weight.grad
            learned.append((encoder is not None, model.network.fc.weight.grad is not None))
            storage.step()
    together = [(True, True), (True, True)]
    assert learned == (together if steps == "joint" else [(True, False), (False, True)])


def test_a_jointly_tuned_model_is_a_plain_classifier_with_the_exported_codec(tmp_path):
    cfg = tiny_cfg("joint_classifier")
    model, items = tiny_model(cfg).train(), make_items()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    with EventStorage():
        for _ in range(2):
            optimizer.zero_grad()
            sum(model(items).values()).backward()
            optimizer.step()
    SafeCheckpointer(model, str(tmp_path)).save("joint")
    model.save_artifacts(tmp_path)
    outputs = model.eval()(items)
    options = "MODEL.META_ARCHITECTURE", "CompressedClassifier", "MODEL.CODEC.WEIGHTS"
    plain = tiny_model(tiny_cfg("latent_resnet", *options, str(tmp_path / "codec.safetensors")))
    SafeCheckpointer(plain).load(str(tmp_path / "joint.pth"))
    plain_outputs = plain.eval()(items)
    for first, second in zip(outputs, plain_outputs, strict=True):
        assert torch.equal(first["scores"], second["scores"])
        assert first["bits"] == second["bits"]
    assert outputs[0]["psnr"] > 10
    again = tiny_model(cfg)
    SafeCheckpointer(again).load(str(tmp_path / "joint.pth"))
    assert torch.equal(again.eval()(items)[0]["scores"], outputs[0]["scores"])
    old = tiny_model(tiny_cfg("latent_resnet", *options[:2]))
    with pytest.raises(ValueError, match="the checkpoint reads"):
        SafeCheckpointer(old).load(str(tmp_path / "joint.pth"))
    assert build_codec(cfg).identity != plain.coded_input.codec.identity


def test_a_frozen_classifier_keeps_its_statistics():
    model = tiny_model(tiny_cfg("joint_classifier", "MODEL.JOINT.TRAIN", ("encoder",))).train()
    before = {k: v.clone() for k, v in model.network.state_dict().items()}
    with EventStorage():
        sum(model(make_items()).values()).backward()
    assert all(torch.equal(v, before[k]) for k, v in model.network.state_dict().items())


def test_weights_loaded_in_eval_mode_are_those_of_the_codec_that_encodes(tmp_path):
    cfg = tiny_cfg("joint_classifier")
    model = tiny_model(cfg).train()
    with torch.no_grad():
        model.trained_codec.network.g_a[0].weight.mul_(1.3)
    SafeCheckpointer(model, str(tmp_path)).save("joint")
    again = tiny_model(cfg).eval()
    SafeCheckpointer(again).load(str(tmp_path / "joint.pth"))
    assert again.coded_input.codec.identity == model.eval().coded_input.codec.identity


def test_a_classifier_of_another_codec_does_not_start_a_joint_tuning(tmp_path):
    cfg = tiny_cfg("joint_classifier", "MODEL.META_ARCHITECTURE", "CompressedClassifier")
    cfg.MODEL.CODEC.QUALITY = 1
    SafeCheckpointer(tiny_model(cfg), str(tmp_path)).save("other")
    with pytest.raises(ValueError, match="quality 1"):
        SafeCheckpointer(tiny_model(tiny_cfg("joint_classifier"))).load(str(tmp_path / "other.pth"))


def test_latents_that_are_resized_may_have_several_sizes():
    items = [make_items(1)[0], make_items(1, 96)[0]]
    model = tiny_model(tiny_cfg("cresnet39"))
    assert model.train()(items)["loss_cls"].isfinite()
    exact = tiny_model(tiny_cfg("cresnet39", "INPUT.AUGMENTATION", "exact"))
    with pytest.raises(ValueError, match="latents of several sizes"):
        exact.eval()(items)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["INPUT.AUGMENTATION", "latent"], "features cannot be compared"),
        (["MODEL.CLASSIFIER.INIT", "x.pth"], "is not for latent_resnet"),
        (["INPUT.DOMAIN", "image"], "'latent_resnet' reads latents, not domain 'image'"),
        (["MODEL.CLASSIFIER.NETWORK", "resnet1"], "MODEL.CLASSIFIER.WIDTH 0.0625 is for"),
        (
            ["MODEL.CLASSIFIER.NETWORK", "resnet1", "MODEL.CLASSIFIER.WIDTH", 1.0],
            "'resnet1' is not one of resnet18",
        ),
        (
            ["MODEL.CLASSIFIER.NETWORK", "resnet50", "MODEL.BRIDGE.ENTRY", "res2"],
            "'res2' of a classifier",
        ),
        (["MODEL.TEACHER.CONFIG_FILE", "", "MODEL.TEACHER.WEIGHTS", ""], "needs a teacher"),
        (["MODEL.CLASSIFIER.NUM_CLASSES", 4], "3 classes, the student 4"),
        (["MODEL.TEACHER.WEIGHTS", "nowhere.pth"], r"nowhere\.pth"),
        (["MODEL.TEACHER.CONFIG_FILE", str(FOLDER / "cresnet39_small.yaml")], "domain 'latent'"),
    ],
)
def test_a_network_or_teacher_that_does_not_fit_is_named(teacher, options, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        tiny_model(tiny_cfg("latent_resnet", *teacher, *options)).prepare_teacher()


def test_a_label_without_an_output_is_named():
    model = tiny_model(tiny_cfg("cresnet39")).train()
    with pytest.raises(ValueError, match=r"label 3 is not in 0\.\.2"):
        model([item | {"label": 3} for item in make_items()])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["MODEL.JOINT.TRAIN", ("encoders",)], "'encoders' is not one of"),
        (["MODEL.JOINT.TRAIN", ()], r"MODEL\.JOINT\.TRAIN"),
        (["MODEL.JOINT.STEPS", "in turn"], "'in turn' is not one of"),
        (["MODEL.JOINT.STEPS", "alternate", "MODEL.JOINT.TRAIN", ("task",)], "every other step"),
        (["INPUT.LATENT_SOURCE", "mapper"], "codes images itself"),
        (["INPUT.DOMAIN", "image"], "codes images itself"),
    ],
)
def test_unknown_choices_of_joint_training_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        tiny_model(tiny_cfg("joint_classifier", *options))
