"""Parts of the site that are made when it is built: commands, files of the root.

mkdocs calls the functions `on_...`. `python docs/hooks.py` writes the tables of the config keys to
`docs/reference/config.md`.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent
KEYS_PAGE = ROOT / "docs/reference/config.md"
# Files of the root that are pages of the site.
ROOT_PAGES = {
    "README.md": "index.md",
    "MODEL_ZOO.md": "model_zoo.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#:\s]+)(#[^)\s]*)?\)")


def on_files(files, config):
    """Add the files of the root."""
    for name, page in ROOT_PAGES.items():
        content = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=content))
    return files


def on_page_markdown(markdown, page, config, files):
    """Append the commands, and turn links between files into links of the site."""
    path = page.file.src_uri
    if path == "reference/cli.md":
        markdown += commands_markdown()
    is_of_root = page.file.generated_by is not None
    folder = "" if is_of_root else posixpath.join("docs", posixpath.dirname(path))
    return LINK.sub(lambda link: site_link(link, folder, posixpath.dirname(path)), markdown)


def site_link(link, folder, page_folder):
    """Return a link of the site, or the bare text if the file is no part of it.

    Args:
        link: match of LINK.
        folder: folder of the document in the repository.
        page_folder: folder of its page in the site.
    """
    mark, text, target, anchor = link.groups(default="")
    file = posixpath.normpath(posixpath.join(folder, target))
    if file in ROOT_PAGES:
        file = ROOT_PAGES[file]
    elif file.startswith("docs/") and not file.endswith(".py"):
        file = file.removeprefix("docs/")
    else:
        return text
    return f"{mark}[{text}]({posixpath.relpath(file, page_folder or '.')}{anchor})"


def commands_markdown():
    """Return the reference of all commands."""
    from cdl_d2.cli.main import app

    text = app.generate_docs(output_format="markdown")
    text = text[text.index("**Commands**") :]  # the site has a table of contents
    return re.sub(r", --no-[\w-]+", "", text)  # such options do not exist


def keys_markdown():
    """Return tables of the config keys, with the sentences of `cdl_d2/d2/config.py`."""
    sections = {}
    for keys, defaults, sentence in config_keys():
        names = "<br>".join(f"<nobr>`{key}`</nobr>" for key in keys)
        values = "<br>".join(f"`{str(default) or repr(default)}`" for default in defaults)
        row = f"| {names} | {values} | {sentence} |"
        sections.setdefault(keys[0].rpartition(".")[0], []).append(row)
    head = "| key | default | meaning |\n| --- | --- | --- |\n"
    parts = (f"\n## {name}\n\n{head}" + "\n".join(rows) for name, rows in sections.items())
    return "\n".join(parts) + "\n"


def write_keys():
    """Replace the tables of config keys in the reference."""
    text = KEYS_PAGE.read_text(encoding="utf-8")
    KEYS_PAGE.write_text(text.partition("\n## ")[0] + "\n" + keys_markdown()[1:], encoding="utf-8")


def config_keys():
    """Return (keys, defaults, sentence) in the order of the source; needs no Detectron2."""
    from cdl_d2.nn.bridge.bridge_fit import FIT_IMAGES
    from cdl_d2.nn.bridge.linear_bridge import DECODER_STRIDE

    names = {"FIT_IMAGES": FIT_IMAGES, "DECODER_STRIDE": DECODER_STRIDE}
    source = (ROOT / "cdl_d2/d2/config.py").read_text(encoding="utf-8")
    entries, comment, is_new = [], [], True
    for line in source.splitlines():
        assignment = re.fullmatch(r"    _C\.([A-Z0-9_.]+) = (.+)", line)
        if line.startswith("    # "):
            comment = [*([] if is_new else comment), line.strip("# ")]
            is_new = False
        elif assignment and assignment[2] != "CN()":
            key, default = assignment[1], eval(assignment[2], names)
            if is_new and entries and entries[-1][2] == " ".join(comment):  # shares its sentence
                entries[-1][0].append(key)
                entries[-1][1].append(default)
            else:
                entries.append(([key], [default], " ".join(comment)))
            is_new = True
    return entries


if __name__ == "__main__":
    write_keys()
