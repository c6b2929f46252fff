import pytest

from cdl_d2.data.datasets.attributes import read_attributes, write_attributes

CELEBA = "2\nSmiling Young \n000001.jpg -1  1\nmore/000002.jpg  1 -1\n"
CSV = "file_name,Smiling,Young\n000001.jpg,0,1\nmore/000002.jpg,1,-1\n"


@pytest.fixture
def read(tmp_path):
    def read(content):
        path = tmp_path / "table"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_attributes(path)

    return read


@pytest.mark.parametrize("content", [CELEBA, CSV, CSV.replace("\n", "\r\n"), "\ufeff" + CSV])
def test_both_formats_are_equal(read, content):
    table = read(content)
    assert table.names == ("Smiling", "Young")
    assert table.select_rows(["more/000002.png", "000001.jpg"]) == [[1, 0], [0, 1]]


def test_a_written_table_is_read(tmp_path):
    rows = {"a, b.png": (0, 1), "c.png": (1, 0)}
    write_attributes(tmp_path / "table.csv", ["bald", 'so "called"'], rows.items())
    table = read_attributes(tmp_path / "table.csv")
    assert table.names == ("bald", 'so "called"')
    assert table.select_rows(list(rows)) == [list(row) for row in rows.values()]


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("", "file_name"),
        ("\n\n", "file_name"),
        (b"file_name,\xe9", "UTF-8"),
        ("image,Smiling\na.jpg,1\n", "'image'"),
        ("file_name\na.jpg\n", "no attribute"),
        ("file_name,Smiling,\na.jpg,1,1\n", "without a name"),
        ("file_name,Smiling,Smiling\na.jpg,1,1\n", "'Smiling'"),
        ("file_name,Smiling\n", "no rows"),
        ("file_name,Smiling\na.jpg\n", r"'a\.jpg'.*0 values"),
        ("file_name,Smiling\na.jpg,1,1\n", r"'a\.jpg'.*2 values"),
        ("file_name,Smiling\na.jpg,2\n", r"'a\.jpg'.*'2'"),
        ("file_name,Smiling\na.jpg,\n", r"'a\.jpg'.*''"),
        ("file_name,Smiling\n,1\n", "file name"),
        ("file_name,Smiling\na.jpg,1\na.png,0\n", r"'a\.png'.*two rows"),
        ('file_name,Smiling\n"a.jpg,1\n', "CSV"),
        ("0\nSmiling\n", "no rows"),
        ("2\nSmiling\na.jpg 1\n", "1 rows"),
        ("1\nSmiling Young\na.jpg 1\n", "1 values"),
        ("1\n", "0 rows"),
    ],
)
def test_invalid_content_is_named(read, content, named):
    with pytest.raises(ValueError, match=named):
        read(content)


def test_images_and_rows_belong_together(read):
    with pytest.raises(ValueError, match=r"b\.jpg"):
        read(CSV).select_rows(["000001.jpg", "more/000002.jpg", "b.jpg"])
    with pytest.raises(ValueError, match=r"000001"):
        read(CSV).select_rows(["more/000002.jpg"])


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_attributes(tmp_path / "nowhere.csv")
