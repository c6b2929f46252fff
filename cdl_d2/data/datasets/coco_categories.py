"""Categories of a COCO-format file, in normal form."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from cdl_d2.data.datasets.coco_findings import Findings, label_of, whole

NO_PARENT = ("none", "", None)


def normalize_categories(
    categories: list[Any], used: Collection[int | None], findings: Findings
) -> list[dict[str, Any]]:
    """Return categories with ids that are whole numbers and names of their own, without empty roots
    and empty twins.

    Args:
        used: ids that objects have.
    """
    kept: dict[int, dict[str, Any]] = {}
    for index, category in enumerate(categories):
        where = label_of("categories", category, index)
        if not isinstance(category, dict) or "id" not in category or "name" not in category:
            findings.fault(where, f"categories without 'id' or 'name': {category!r:.80}")
            continue
        number, name = whole(category["id"]), category["name"]
        if number is None:
            findings.fault(where, "ids must be whole numbers up to 2^53")
            continue
        if type(category["id"]) is not int:
            findings.repair("ids of categories as text or floats", where)
        if type(name) in (int, float):
            name = f"{name}"
            findings.repair("names of categories that are numbers", where)
        category = category | {"id": number, "name": name}
        if not isinstance(name, str):
            findings.fault(where, f"category name {name!r:.40} is not a text")
        elif number in kept and category == kept[number]:
            findings.repair("categories listed twice", where)
        elif number in kept:
            findings.fault(where, f"several categories of id {number}: ids must be unique")
        else:
            kept[number] = category
    return _without_twins(_without_root(list(kept.values()), used, findings), used, findings)


def _without_root(
    categories: list[dict[str, Any]], used: Collection[int | None], findings: Findings
) -> list[dict[str, Any]]:
    """Leave out a category without objects that is the parent of all others, as Roboflow adds."""
    for root in categories:
        others = [category for category in categories if category is not root]
        parents = [category.get("supercategory") for category in others]
        is_root = root.get("supercategory") in (*NO_PARENT, root["name"])
        if is_root and others and root["id"] not in used and {*map(str, parents)} == {root["name"]}:
            findings.repair("empty root categories, left out", f"{root['name']!r}")
            return others
    return categories


def _without_twins(
    categories: list[dict[str, Any]], used: Collection[int | None], findings: Findings
) -> list[dict[str, Any]]:
    """Leave out a category without objects whose name another one with objects has."""
    with_objects = {category["name"] for category in categories if category["id"] in used}
    kept, names = [], set()
    for category in categories:
        name, where = category["name"], f"category {category['id']}"
        if category["id"] not in used and name in with_objects:
            findings.repair("empty categories with the name of another, left out", where)
        elif name in names:
            findings.fault(where, f"category name {name!r:.200} is another's, too")
        else:
            names.add(name)
            kept.append(category)
    return kept
