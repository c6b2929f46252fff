"""The documents say what is so: their commands run, and what they name exists."""

import re
from collections import Counter

import pytest

from cdl_d2.cli.main import app
from tests.documents import ROOT, RUNNABLE, blocks, commands_of, run_document

EXPERIMENTS = sorted((ROOT / "docs/experiments").glob("*.md"))
SPLITS = sorted((ROOT / "docs/experiments/splits").glob("*.txt"))
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def name_of(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("document", RUNNABLE, ids=name_of)
def test_commands_and_scripts_run(document, server, tmp_path):
    run_document(document, tmp_path, server)
    missing = sorted({name for block in blocks(document) for name in block.missing})
    if missing:
        pytest.skip(f"not its blocks that need {', '.join(missing)}")


@pytest.mark.parametrize("document", [*EXPERIMENTS, ROOT / "docs/reproducing.md"], ids=name_of)
def test_commands_of_experiments_have_arguments_that_exist(document, tmp_path):
    for words in commands_of(document, tmp_path):
        app.parse_args(words, exit_on_error=False, print_error=False)


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_files_that_a_document_links_or_names_exist(document):
    text = document.read_text()
    links = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", text)
    missing = [link for link in links if not (document.parent / link).exists()]
    configs = re.findall(r"\b((?:detection|classification|segmentation)/[\w/.-]+\.yaml)", text)
    missing += [name for name in configs if not (ROOT / "configs" / name).exists()]
    files = re.findall(r"`((?:cdl_d2|tests)/[\w/.]+)`", text)
    missing += [name for name in files if "NAME" not in name and not (ROOT / name).exists()]
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_config_keys_that_a_document_names_exist(document):
    if document.name in ("CHANGELOG.md", "migration.md"):
        pytest.skip("it names keys of the past")
    pytest.importorskip("detectron2", reason="Detectron2 is not installed")
    from detectron2.config import get_cfg

    from cdl_d2.d2.config import add_cdl_config

    cfg = get_cfg()
    add_cdl_config(cfg)
    for key in re.findall(
        r"\b((?:MODEL|INPUT|SOLVER|TEST|DATASETS)(?:\.[A-Z_0-9]+)+)", document.read_text()
    ):
        node = cfg
        for part in key.split("."):
            assert part in node, f"there is no key {key}"
            node = node[part]


@pytest.mark.parametrize("path", SPLITS, ids=lambda path: path.stem)
def test_no_image_is_in_two_splits_and_their_sizes_are_those_of_the_table(path):
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    identities = [line.split(" ")[-1].rpartition("/")[2] for line in lines]
    table = (ROOT / "docs/datasets.md").read_text(encoding="utf-8")
    row = next(row for row in table.splitlines() if row.startswith(f"| `{path.stem}` |"))
    counts = Counter(line.partition("/")[0] for line in lines)
    classes = {"rsscn7": 7}.get(path.stem, 1)
    assert all(re.search(rf"\b{count // classes}\b", row) for count in counts.values())
    assert len({*identities}) == len(identities)
