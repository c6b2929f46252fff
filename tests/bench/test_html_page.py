import re

import numpy as np

from cdl_d2.bench.html_page import figure_row, table_html, write_page


def test_each_value_of_a_table_has_the_name_of_its_column():
    table = table_html(["", "AP", "a<b"], [["first", "1", "2"], ["second", "3", "4"]])
    cells = re.findall(r'<td data-column="([^"]*)">([^<]*)</td>', table)
    assert cells == [
        *(("", "first"), ("AP", "1"), ("a&lt;b", "2")),
        *(("", "second"), ("AP", "3"), ("a&lt;b", "4")),
    ]


def test_a_page_needs_no_other_file_and_follows_the_color_scheme(tmp_path):
    pictures = figure_row("<image>", {"caption & more": np.zeros((8, 8, 3), np.uint8)})
    write_page(tmp_path / "page.html", "Title", [pictures])
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<h1>Title</h1>" in page and "caption &amp; more" in page and "<image>" not in page
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "color-scheme:light dark" in page
