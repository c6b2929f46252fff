"""Categories of a COCO-format file, in normal form."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from cdl_d2.data.datasets.coco_findings import Findings, unique_records

NO_PARENT = ("none", "", None)


def normalize_categories(
    categories: list[Any], used: Collection[int | None], findings: Findings
) -> list[dict[str, Any]]:
    """Return categories with unique integer ids and names, without empty roots and duplicates.

    `used` are the category ids of objects.
    """
    categories = [_with_text_name(category, findings) for category in categories]
    records = unique_records("categories", categories, "name", findings)
    for record in records:
        if not isinstance(record["name"], str):
            name = f"category name {record['name']!r:.40}"
            findings.fault(f"category {record['id']}", f"{name} is not a text")
            record["name"] = str(record["name"])
    return _without_duplicates(_without_root(records, used, findings), used, findings)


def _with_text_name(category: Any, findings: Findings) -> Any:
    """Return the category with its name as text if that is a number."""
    name = category.get("name") if isinstance(category, dict) else None
    if type(name) not in (int, float):
        return category
    findings.repair("names of categories that are numbers", f"{name}")
    return category | {"name": f"{name}"}


def _without_root(
    categories: list[dict[str, Any]], used: Collection[int | None], findings: Findings
) -> list[dict[str, Any]]:
    """Remove a category without objects that is the parent of all others, as Roboflow adds."""
    for root in categories:
        children = [category for category in categories if category is not root]
        parents = {str(category.get("supercategory")) for category in children}
        is_root = root.get("supercategory") in (*NO_PARENT, root["name"])
        if is_root and children and root["id"] not in used and parents == {root["name"]}:
            findings.repair("empty root categories, left out", f"{root['name']!r}")
            return children
    return categories


def _without_duplicates(
    categories: list[dict[str, Any]], used: Collection[int | None], findings: Findings
) -> list[dict[str, Any]]:
    """Remove categories without objects that have the name of one with objects."""
    used_names = {category["name"] for category in categories if category["id"] in used}
    kept, names = [], set()
    for category in categories:
        name, label = category["name"], f"category {category['id']}"
        if category["id"] not in used and name in used_names:
            findings.repair("empty categories with the name of another, left out", label)
        elif name in names:
            findings.fault(label, f"category name {name!r:.200} is used twice")
        else:
            names.add(name)
            kept.append(category)
    return kept
