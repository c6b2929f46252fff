"""The generated parts of the site: commands, config keys, figures, links."""

import importlib.util
import re

import pytest

from cdl_d2.cli.main import app
from tests.documents import ROOT


def load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / f"docs/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def hooks():
    pytest.importorskip("mkdocs", reason="mkdocs is not installed")
    return load("hooks")


def test_the_reference_has_every_command_and_no_options_that_do_not_exist(hooks):
    text = hooks.commands_markdown()
    for name in app:
        if not name.startswith("-"):
            assert f"## cdl {name}\n" in text
    assert "--no-" not in text


def test_the_table_of_commands_has_every_command():
    page = (ROOT / "docs/reference/cli.md").read_text(encoding="utf-8")
    assert all(f"`{name}" in page for name in app if not name.startswith("-"))


def test_the_reference_has_every_key_with_its_default_and_a_sentence(hooks):
    entries = hooks.config_keys()
    assert all(sentence.endswith(".") for _, _, sentence in entries)
    documented = {k: v for keys, values, _ in entries for k, v in zip(keys, values, strict=True)}
    pytest.importorskip("detectron2", reason="Detectron2 is not installed")
    from detectron2.config import get_cfg
    from detectron2.projects.deeplab import add_deeplab_config

    from cdl_d2.d2.config import add_cdl_config, leaves

    cfg, others = get_cfg(), get_cfg()
    add_cdl_config(cfg)
    add_deeplab_config(others)
    assert documented == {k: v for k, v in leaves(cfg).items() if k not in leaves(others)}


def test_the_page_of_keys_is_that_of_the_source(hooks):
    page = hooks.KEYS_PAGE.read_text(encoding="utf-8").splitlines()
    tables = hooks.keys_markdown().splitlines()
    rows = [[row for row in text if "FIT_IMAGES" not in row] for text in (page, tables)]
    assert rows[0][-len(rows[1]) :] == rows[1]  # tests fit to fewer images


@pytest.mark.parametrize(
    ("folder", "page_folder", "link", "expected"),
    [
        ("docs", "", "[a](method.md#losses)", "[a](method.md#losses)"),
        ("docs/tutorials", "tutorials", "[a](../../CHANGELOG.md)", "[a](../changelog.md)"),
        ("", "", "[a](docs/limits.md)", "[a](limits.md)"),
        ("", "", "![a](docs/figures/bridge.svg)", "![a](figures/bridge.svg)"),
        ("", "", "[a](configs/detection)", "a"),
    ],
)
def test_links_lead_to_pages_of_the_site(hooks, folder, page_folder, link, expected):
    assert hooks.site_link(hooks.LINK.fullmatch(link), folder, page_folder) == expected


def test_figures_are_what_their_script_draws():
    script = load("draw_method")
    for name, draw in script.FIGURES.items():
        assert (script.FOLDER / f"{name}.svg").read_text(encoding="utf-8") == draw().svg()


def test_the_site_needs_no_network():
    for page in (ROOT / "docs").rglob("*.md"):
        assert "```mermaid" not in page.read_text(encoding="utf-8"), page
    assert not re.search(r"https?://.*\.js", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert "font: false" in (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
