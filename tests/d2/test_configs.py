import pickle
import re
import shlex
import socket
from pathlib import Path

import pytest
import torch
import yaml

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.config import LazyConfig, get_cfg, instantiate
from detectron2.modeling import build_model

from cdl_d2.bench.counts import count_multiply_adds
from cdl_d2.d2 import Trainer, build_mapper
from cdl_d2.d2.config_files import find_config, read_config, trust_program
from cdl_d2.d2.detectron2_zoo import DETECTRON2_ZOO
from cdl_d2.d2.engine.run_config import RunConfig
from cdl_d2.d2.modeling.teacher import build_teacher, teacher_config
from cdl_d2.errors import CdlError
from tests.d2.conftest import CONFIGS, SMALL
from tests.documents import ROOT, commands_of

LEAVES = sorted(p for p in CONFIGS.rglob("*/*.yaml") if not p.name.startswith("Base"))
DOCS = ROOT / "docs"
MAIN = "detection/latent_mask_rcnn_R50_FPN.yaml"


@pytest.mark.parametrize("path", LEAVES, ids=lambda p: p.stem)
def test_every_config_loads_its_teacher_too(path):
    teacher = read_config(path).MODEL.TEACHER.CONFIG_FILE
    assert not teacher or read_config(find_config(teacher)).VERSION == 2


def test_every_config_has_an_output_folder_of_its_own():
    folders = {read_config(path).OUTPUT_DIR for path in LEAVES}
    assert folders == {f"./output/{path.stem}" for path in LEAVES}
    assert len(folders) == len(LEAVES)


def test_the_output_folder_can_be_set_in_a_base_or_by_an_override(tmp_path):
    (tmp_path / "base.yaml").write_text("OUTPUT_DIR: elsewhere\nVERSION: 2\n")
    (tmp_path / "leaf.yaml").write_text("_BASE_: base.yaml\n")
    assert read_config(tmp_path / "leaf.yaml").OUTPUT_DIR == "elsewhere"
    assert read_config(tmp_path / "leaf.yaml", ["OUTPUT_DIR", "third"]).OUTPUT_DIR == "third"


def test_a_config_is_found_by_its_name_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert read_config(MAIN) == read_config(CONFIGS / MAIN)
    zoo = read_config("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml")
    assert zoo.SOLVER.MAX_ITER == 270000


def test_a_file_in_the_working_folder_is_found_before_the_packages(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "detection").mkdir()
    (tmp_path / MAIN).write_text("SEED: 7\nVERSION: 2\n")
    assert read_config(MAIN).SEED == 7


@pytest.fixture(params=["checkout", "installed", "another project"])
def elsewhere(request, tmp_path, monkeypatch):
    """Working folder with `configs/` as in a checkout, without, or with one of its own."""
    if request.param == "checkout":
        (tmp_path / "configs").symlink_to(CONFIGS)
    elif request.param == "another project":
        (tmp_path / "configs" / "small").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)


def test_the_main_config_has_a_short_path(elsewhere):
    for path in ("configs/latent_mask_rcnn_R50_FPN.yaml", "latent_mask_rcnn_R50_FPN.yaml"):
        assert read_config(path) == read_config(CONFIGS / MAIN)


MOVED = """\
    Base-RCNN-FPN latent_faster_rcnn_R50_FPN latent_mask_rcnn_R50_FPN
    latent_mask_rcnn_R50_FPN_mbt2018 latent_mask_rcnn_R50_FPN_stem1x1 pixel_mask_rcnn_R50_FPN
    reconstruction_mask_rcnn_R50_FPN quick_schedules/latent_mask_rcnn_instant_test
    quick_schedules/latent_mask_rcnn_overfit small/latent_mask_rcnn_small
    small/pixel_mask_rcnn_small small/reconstruction_mask_rcnn_small"""
KEPT = """\
    classification/cresnet39 classification/latent_resnet50 classification/reconstruction_resnet50
    classification/latent_resnet50_stem1x1 classification/small/cresnet39_small
    classification/small/joint_classifier_small classification/small/latent_resnet_small
    classification/small/pixel_resnet_small classification/small/reconstruction_resnet_small
    segmentation/latent_deeplab_v3_R50 segmentation/latent_deeplab_v3_R50_gate
    segmentation/latent_deeplab_v3_R50_res segmentation/latent_semantic_R50_FPN
    segmentation/pixel_deeplab_v3_R50 segmentation/reconstruction_deeplab_v3_R50
    segmentation/small/latent_deeplab_small segmentation/small/latent_semantic_fpn_small
    segmentation/small/pixel_deeplab_small segmentation/small/reconstruction_deeplab_small"""


def test_a_config_is_found_at_its_path_of_0_1_0(elsewhere):
    for name in (MOVED + KEPT).split():
        path = find_config(f"configs/{name}.yaml").resolve()
        assert path.stem == Path(name).name and path.is_relative_to(CONFIGS)


def test_a_files_name_is_enough_where_one_config_has_it(elsewhere):
    assert find_config("latent_liu2022.yaml").parent.name == "liu2022"
    assert find_config("mask_rcnn_R_50_FPN_3x.yaml").is_relative_to(DETECTRON2_ZOO)
    with pytest.raises(CdlError, match=r"detection/small/Base-small\.yaml") as caught:
        find_config("Base-small.yaml")
    assert "segmentation/small/Base-small.yaml" in str(caught.value)


def test_a_misspelt_name_lists_the_nearest(elsewhere):
    for name in ("latent_maskrcnn_R50_FPN.yaml", "configs/detection/latent_mask_rcn_R50_FPN.yaml"):
        with pytest.raises(FileNotFoundError, match="detection/latent_mask_rcnn_R50_FPN"):
            find_config(name)


def test_what_a_folder_of_the_users_lacks_is_not_looked_for_in_the_package(elsewhere):
    Path("run").mkdir()
    Path("run/model.yaml").write_text("")
    for name in (
        "run/config.yaml",
        "run",
        "run/latent_mask_rcnn_R50_FPN.yaml",
        Path("run").absolute(),
    ):
        with pytest.raises(FileNotFoundError, match=r"run.*model\.yaml") as caught:
            find_config(name)
        assert str(CONFIGS) not in str(caught.value)


def test_a_config_that_is_nowhere_says_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError) as caught:
        read_config("detection/nothing.yaml")
    assert "detection/nothing.yaml" in str(caught.value) and str(tmp_path) in str(caught.value)


def test_a_teacher_beside_its_student_is_found_from_any_folder(tmp_path, monkeypatch):
    (tmp_path / "teacher.yaml").write_text("VERSION: 2\n")
    (tmp_path / "student.yaml").write_text(
        "MODEL: {TEACHER: {CONFIG_FILE: teacher.yaml}}\nVERSION: 2\n"
    )
    monkeypatch.chdir(tmp_path)
    student = read_config("student.yaml")
    monkeypatch.chdir("/")
    assert find_config(student.MODEL.TEACHER.CONFIG_FILE).samefile(tmp_path / "teacher.yaml")


def test_a_dumped_config_reads_as_the_same(tmp_path):
    cfg = read_config(MAIN, ["MODEL.SELECTION.TEMPERATURES", "(3.0, 1.0)"])
    (tmp_path / "config.yaml").write_text(cfg.dump())
    again = read_config(tmp_path / "config.yaml")
    assert yaml.safe_load(again.dump()) == yaml.safe_load(cfg.dump())
    assert again.MODEL.SELECTION == cfg.MODEL.SELECTION and again.DATASETS == cfg.DATASETS  # tuples


@pytest.mark.parametrize("leaf", ["_BASE_: base.yaml\n", "_BASE_: [base.yaml]\n", None])
def test_a_config_runs_no_code(tmp_path, leaf):
    path, proof = tmp_path / "base.yaml", tmp_path / "proof"
    path.write_text(f"SEED: !!python/object/apply:os.system ['touch {proof}']\nVERSION: 2\n")
    if leaf:
        path = tmp_path / "leaf.yaml"
        path.write_text(leaf)
    with pytest.raises(CdlError, match="python/object/apply"):
        read_config(path)
    assert not proof.exists()


def test_numbers_that_detectron2s_configs_compute_are_read(tmp_path):
    based = f"_BASE_: {DETECTRON2_ZOO}/Base-RetinaNet.yaml\n"
    for name in ("Base-RetinaNet.yaml", "COCO-Detection/retinanet_R_50_FPN_1x.yaml"):
        path = tmp_path / Path(name).name
        path.write_text((DETECTRON2_ZOO / name).read_text().replace('"../Base', '"./Base'))
        unsafe = get_cfg()
        unsafe.merge_from_file(str(DETECTRON2_ZOO / name), allow_unsafe=True)
        expected = unsafe.MODEL.ANCHOR_GENERATOR.SIZES
        assert expected == read_config(path).MODEL.ANCHOR_GENERATOR.SIZES
        (tmp_path / "own.yaml").write_text(based)
        assert expected == read_config(tmp_path / "own.yaml").MODEL.ANCHOR_GENERATOR.SIZES
    path.write_text(
        "VERSION: 2\nINPUT:\n  MIN_SIZE_TRAIN: !!python/object/apply:eval "
        '["[int(x * 0.1 * 640) for x in range(5, 16)]"]\n'
    )
    assert tuple(int(x * 0.1 * 640) for x in range(5, 16)) == read_config(path).INPUT.MIN_SIZE_TRAIN


@pytest.mark.parametrize(
    "expression",
    [
        *("__import__('os').getcwd()", "[x for x in open('/etc/passwd')]", "[x.real for x in [1]]"),
        *("[[9**9**9 for x in [1]]]", "[x for x in range(10**9)]", "[x if x else 1 for x in [1]]"),
        *("[1/0]", "['a']", "[(lambda: 1)()]", "[x", "3", "[y for x in [1]]", "[10.0**64**64]"),
        *("[x for x in range()]", "[True]", "[2 ** 0.5 * 1j]", "[x for x in [1] if x]"),
    ],
)
def test_what_is_no_list_of_numbers_is_not_computed(tmp_path, expression):
    path = tmp_path / "self.yaml"
    path.write_text(f'SEED: !!python/object/apply:eval ["{expression}"]\nVERSION: 2\n')
    with pytest.raises(CdlError, match=r"self\.yaml.*python/object/apply:eval"):
        read_config(path)


@pytest.mark.parametrize("named", [False, True])
def test_a_program_beside_a_config_runs_only_if_the_command_line_names_it(tmp_path, named):
    program, proof = tmp_path / "teacher.py", tmp_path / "proof"
    program.write_text(f"open({str(proof)!r}, 'w')\nmodel = None\n")
    student = tmp_path / "student.yaml"
    student.write_text(
        f"_BASE_: {CONFIGS}/detection/small/latent_mask_rcnn_small.yaml\n"
        "MODEL: {TEACHER: {CONFIG_FILE: teacher.py}}\n"
    )
    overrides = ["MODEL.TEACHER.CONFIG_FILE", str(program)] if named else []
    cfg = RunConfig(str(student), overrides).load()
    with pytest.raises(CdlError, match=r"teacher\.py"):
        build_teacher(cfg)
    assert proof.exists() == named


def test_a_teacher_that_is_a_lazy_config_is_counted(tmp_path):
    (tmp_path / "teacher.py").write_text(
        "from detectron2.config import LazyCall\n"
        "from detectron2.modeling import build_model\n"
        "from tests.d2.conftest import small_cfg\n"
        "def build(kind):\n"
        "    return build_model(small_cfg(kind))\n"
        "model = LazyCall(build)(kind='pixel')\n"
    )
    trust_program(tmp_path / "teacher.py")
    config, teacher = "detection/small/latent_mask_rcnn_small.yaml", "MODEL.TEACHER.CONFIG_FILE"
    cfg = read_config(config, [*SMALL, teacher, str(tmp_path / "teacher.py")])
    yaml_cfg = read_config(config, [*SMALL, teacher, "detection/small/pixel_mask_rcnn_small.yaml"])
    counts, expected = (count_multiply_adds(each, (64, 64)) for each in (cfg, yaml_cfg))
    assert counts.keys() == expected.keys() and counts["teacher_backbone"] > 0
    with pytest.raises(CdlError, match="LazyConfig"):
        teacher_config(cfg)


def test_a_device_that_is_not_there_says_what_to_set():
    with pytest.raises(CdlError, match=r"MODEL\.DEVICE"):
        RunConfig(MAIN, ["MODEL.DEVICE", "xpu"]).load()


def test_a_teachers_config_runs_no_code(tmp_path):
    path, proof = tmp_path / "teacher.yaml", tmp_path / "proof"
    path.write_text(f"SEED: !!python/object/apply:os.system ['touch {proof}']\nVERSION: 2\n")
    with pytest.raises(CdlError, match="python/object/apply"):
        teacher_config(read_config(MAIN, ["MODEL.TEACHER.CONFIG_FILE", str(path)]))
    assert not proof.exists()


def bomb(way, depth):
    """YAML of a few lines in which x stands for 8^depth values."""
    alias = ", ".join(f"{i}: *x" if way == "mapping" else "*x" for i in range(8))
    form = {"mapping": "{%s}", "list": "[%s]", "merge": "{<<: [%s]}"}[way] % alias
    lines = [f"x{i + 1}: &x{i + 1} {form.replace('*x', f'*x{i}')}" for i in range(depth)]
    return "\n".join(["x0: &x0 {a: 1}", *lines, ""])


@pytest.mark.parametrize("way", ["mapping", "list", "merge"])
@pytest.mark.parametrize("base", [False, True])
def test_aliases_that_stand_for_more_than_fits_are_refused(tmp_path, way, base):
    path = tmp_path / "self.yaml"
    path.write_text(bomb(way, 14))
    if base:
        path = tmp_path / "leaf.yaml"
        path.write_text("_BASE_: self.yaml\n")
    with pytest.raises(CdlError, match=r"self\.yaml"):
        read_config(path)


def test_what_holds_itself_is_refused(tmp_path):
    (tmp_path / "self.yaml").write_text("SEED: &a [*a]\n")
    with pytest.raises(CdlError, match=r"self\.yaml"):
        read_config(tmp_path / "self.yaml")


def test_an_alias_is_what_it_stands_for(tmp_path):
    (tmp_path / "a.yaml").write_text(
        "VERSION: 2\nINPUT: {MIN_SIZE_TRAIN: &s [480, 512], MAX_SIZE_TEST: 9}\n"
        "SOLVER: {STEPS: *s}\n"
    )
    assert read_config(tmp_path / "a.yaml").SOLVER.STEPS == (480, 512)


@pytest.mark.parametrize("name", ["https://HOST/a.yaml", "http://HOST/a.yaml", "detectron2://a"])
@pytest.mark.parametrize(
    "form", ["_BASE_: {}", "_BASE_: [{}]", "x: &x {{_BASE_: {}}}\n<<: *x", "<<: {{_BASE_: {}}}"]
)
def test_a_base_in_the_net_is_refused_and_not_asked_for(tmp_path, name, form):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        host = f"127.0.0.1:{server.getsockname()[1]}"
        path = tmp_path / "leaf.yaml"
        path.write_text(form.format(name.replace("HOST", host)) + "\n")
        with pytest.raises(CdlError, match=r"leaf\.yaml.*_BASE_"):
            read_config(path)
        with pytest.raises(BlockingIOError):
            server.accept()


def test_files_that_lead_to_ever_more_files_are_refused(tmp_path):
    for i in range(40):
        (tmp_path / f"{i}.yaml").write_text(f"_BASE_: [{i + 1}.yaml, {i + 1}.yaml]\n")
    (tmp_path / "40.yaml").write_text("VERSION: 2\n")
    with pytest.raises(CdlError, match=r"0\.yaml"):
        read_config(tmp_path / "0.yaml")


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"3", b"- a\n- b", b"just words", b"_BASE_: 3", b"_BASE_: self.yaml"),
        *(b"a: [", b"VERSION: later", b"VERSION: 99", b"MODEL: 3\nVERSION: 2", b"\xff\xfe\x00"),
        *(b"SEED: many\nVERSION: 2", b"NO_SUCH_KEY: 1\nVERSION: 2", pickle.dumps([1])),
    ],
)
def test_what_is_no_config_is_one_error_that_names_the_file(tmp_path, content):
    path = tmp_path / "self.yaml"
    path.write_bytes(content)
    with pytest.raises(CdlError, match=r"self\.yaml"):
        read_config(path)


@pytest.mark.parametrize(
    "overrides", [["SEED"], ["SEED", "many"], ["NO_SUCH_KEY", 1], ["SEED.X", 1], [1, 1]]
)
def test_overrides_that_do_not_fit_are_one_error(overrides):
    with pytest.raises(CdlError):
        read_config(MAIN, overrides)


def test_the_documented_overrides_fit_their_configs():
    pages = [DOCS / "recipes.md", DOCS / "reproducing.md"]
    text = "".join(page.read_text(encoding="utf-8") for page in pages)
    rows = re.findall(r"\| `(\S+\.(?:yaml|py))` \| (?:`(.+)` )?\|$", text, re.MULTILINE)
    assert {Path(config).parts[0] for config, _ in rows} == {
        path.name for path in CONFIGS.iterdir() if path.is_dir()
    }
    for config, overrides in rows:
        if config.endswith(".yaml"):
            read_config(CONFIGS / config, shlex.split(overrides))
        else:
            LazyConfig.apply_overrides(
                LazyConfig.load(str(CONFIGS / config)), shlex.split(overrides)
            )


def test_the_configs_of_papers_are_all_reproduced():
    page = (DOCS / "reproducing.md").read_text(encoding="utf-8")
    papers = [path for path in LEAVES if path.parent.name == "liu2022" or "mbt2018" in path.name]
    assert len(papers) > 10
    assert not [path.name for path in papers if path.name not in page]


def test_the_commands_of_the_reproduction_page_fit_their_configs(tmp_path):
    commands = [
        words for words in commands_of(DOCS / "reproducing.md", tmp_path) if words[0] == "train"
    ]
    assert len(commands) > 5
    for words in commands:
        config = words[words.index("--config-file") + 1]
        keys = [i for i, word in enumerate(words) if re.match(r"[A-Z]+(\.[A-Z]|$)", word)]
        read_config(CONFIGS / config, words[keys[0] :] if keys else [])


def test_latents_are_asked_for_and_images_the_default(tmp_path, caplog):
    def domain(content):
        (tmp_path / "own.yaml").write_text(f"VERSION: 2\n{content}")
        return read_config(tmp_path / "own.yaml").INPUT.DOMAIN

    assert read_config("COCO-Detection/retinanet_R_50_FPN_1x.yaml").INPUT.DOMAIN == "image"
    caplog.clear()
    # What version 0.1.0 wrote into the configs of trainings of Detectron2's own models.
    assert domain("INPUT: {DOMAIN: latent}\n") == "image" and not caplog.messages
    ours = "MODEL: {META_ARCHITECTURE: CompressedClassifier}\n"
    assert domain(ours + "INPUT: {DOMAIN: latent}\n") == "latent" and not caplog.messages
    assert domain(ours) == "image" and "INPUT.DOMAIN" in caplog.text
    caplog.clear()
    domains = {path.stem: read_config(path).INPUT.DOMAIN for path in LEAVES}
    assert not caplog.messages  # every one of the package says it
    assert {name.partition("_")[0] for name, domain in domains.items() if domain == "image"} == {
        "pixel"
    }


@pytest.mark.parametrize("backbone", ["build_latent_resnet_fpn_backbone", "build_bridged_backbone"])
def test_a_backbone_of_latents_needs_their_domain(backbone):
    cfg = read_config(MAIN, ["MODEL.BACKBONE.NAME", backbone, "INPUT.DOMAIN", "image"])
    with pytest.raises(CdlError, match=r"INPUT\.DOMAIN latent"):
        build_model(cfg)


def test_no_stage_is_frozen_behind_a_bridge_to_the_first_convolution():
    configs = [read_config(path).MODEL for path in LEAVES]
    bridged = [model for model in configs if model.BACKBONE.NAME == "build_bridged_backbone"]
    entered = [model for model in bridged if model.BRIDGE.ENTRY == "conv1"]
    assert len(entered) > 4 and not any(model.BACKBONE.FREEZE_AT for model in entered)


def test_faces_are_not_mirrored():
    for name in ("joint", "latent", "pixel"):
        cfg = read_config(f"multitask/{name}_multitask_R50_FPN.yaml")
        mapper = build_mapper(cfg, is_train=True)
        assert not any("Flip" in type(each).__name__ for each in mapper.augmentations.augs)


def test_the_main_config_has_the_papers_schedule():
    cfg = read_config(MAIN)
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS) == (270000, (210000, 250000))
    assert (cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.BASE_LR) == (16, 0.02)
    assert cfg.INPUT.MIN_SIZE_TRAIN == (640, 672, 704, 736, 768, 800)
    assert cfg.MODEL.TRANSFER.WEIGHT == 1.0


def test_segmentation_has_the_schedule_of_section_3_1():
    cfg = read_config("segmentation/liu2022/gate_liu2022.yaml")
    epoch = 2975 / cfg.SOLVER.IMS_PER_BATCH
    assert cfg.SOLVER.OPTIMIZER == "ADAM" and cfg.SOLVER.BASE_LR == 0.001
    assert cfg.SOLVER.MAX_ITER / epoch == pytest.approx(400, rel=1e-4)
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.Adam([weight], lr=cfg.SOLVER.BASE_LR)
    schedule, rates = Trainer.build_lr_scheduler(cfg, optimizer), []
    for part in (0, 299, 301, 399):
        schedule.last_epoch = int(part * epoch)
        rates += schedule.get_lr()
    assert rates == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4])


def test_teacher_decoded_and_latent_segmentors_have_one_start():
    names = ["pixel_deeplab_v3_R50", "reconstruction_deeplab_v3_R50", "latent_deeplab_v3_R50"]
    names += [f"liu2022/{path.stem}" for path in LEAVES if "segmentation/liu2022" in str(path)]
    starts = {read_config(f"segmentation/{name}.yaml").MODEL.WEIGHTS for name in names}
    assert len(starts) == 1 and starts.pop().startswith("detectron2://ImageNetPretrained/")


def giga_at_800x1280(cfg):
    """What is counted at a fifth of the height and width, 25 times: convolutions scale so."""
    counts = count_multiply_adds(cfg, (160, 256))
    return {part: 25 * count / 1e9 for part, count in counts.items()}


def test_the_main_model_has_the_multiply_adds_of_table_2():
    cfg = read_config(MAIN)
    giga = giga_at_800x1280(cfg)
    assert giga["student_backbone"] == pytest.approx(155.25, rel=0.002)
    assert giga["teacher_backbone"] == pytest.approx(136.93, rel=0.002)
    assert giga["codec_decoder"] == pytest.approx(43.19, rel=0.002)


def test_the_1x1_stem_and_the_context_codec_have_their_multiply_adds():
    cfg = read_config("detection/latent_mask_rcnn_R50_FPN_stem1x1.yaml")
    cfg.MODEL.CODEC.NAME = "mbt2018"
    giga = giga_at_800x1280(cfg)
    assert giga["student_backbone"] == pytest.approx(149.31, rel=0.002)
    assert giga["codec_decoder"] == pytest.approx(93.49, rel=0.002)


def test_the_transform_modules_are_counted_by_hand():
    cells, kernel = 4 * 8, 5 * 5  # each cell spreads over 4 pixels in either half
    halves = [cells * kernel * 192 * 192, 4 * cells * kernel * 192 * 256]
    gdn = 4 * cells * 192 * 192
    counts = [
        count_multiply_adds(read_config(f"segmentation/{name}.yaml"), (64, 128))
        for name in ("latent_deeplab_v3_R50", "latent_deeplab_v3_R50_res")
    ]
    assert counts[0]["bridge"] == sum(halves) + gdn
    assert counts[1]["bridge"] > 5 * counts[0]["bridge"]
    rest = [each["student_backbone"] - each["bridge"] for each in counts]
    assert rest[0] == rest[1]


@pytest.mark.parametrize("size", [(0, 64), (64, 65), (-32, 32)])
def test_a_size_that_cannot_be_counted_is_named(size):
    cfg = read_config(MAIN)
    with pytest.raises(ValueError, match="multiples of 32"):
        count_multiply_adds(cfg, size)


def test_classification_has_the_schedule_of_appendix_a3():
    cfg = read_config("classification/latent_resnet50.yaml")
    epoch = 1_281_167 / cfg.SOLVER.IMS_PER_BATCH
    assert cfg.SOLVER.IMS_PER_BATCH == 256 and cfg.SOLVER.BASE_LR == 0.1
    assert cfg.SOLVER.MAX_ITER / epoch == pytest.approx(100, rel=1e-3)
    assert [round(step / epoch) for step in cfg.SOLVER.STEPS] == [30, 60, 90]
    assert cfg.SOLVER.WEIGHT_DECAY == cfg.SOLVER.WEIGHT_DECAY_NORM == 1e-4


@pytest.mark.parametrize("name", ["latent_mask_rcnn_small", "latent_mask_rcnn_R50_FPN"])
def test_a_lazy_config_is_the_model_of_its_yaml(name):
    codec = "tiny-bmshj2018-hyperprior"  # its weights are in the package
    folder = "small/" if name.endswith("small") else ""
    options = ["MODEL.CODEC.NAME", codec, "MODEL.CODEC.QUALITY", 2, "MODEL.DEVICE", "cpu"]
    expected = build_model(read_config(f"detection/{folder}{name}.yaml", options)).state_dict()
    lazy = LazyConfig.load(str(CONFIGS / "lazy" / f"{name}.py"))
    lazy.model.coded_input.codec.update(name=codec, quality=2)
    shapes = {key: value.shape for key, value in instantiate(lazy.model).state_dict().items()}
    assert shapes == {key: value.shape for key, value in expected.items()}


def test_the_small_detectors_of_boxes_are_those_of_masks_without_the_mask_head():
    for kind in ("pixel", "bridge"):
        boxes, masks = (
            build_model(read_config(f"detection/small/{kind}_{name}_rcnn_small.yaml")).state_dict()
            for name in ("faster", "mask")
        )
        assert boxes.keys() == {key for key in masks if ".mask_head." not in key}
