"""Table of a classifier's predictions."""

import csv
import io

from cdl_d2.prediction.tasks.classification import TASK


def test_columns_have_names_of_their_own_whatever_the_classes_are_called():
    names = ["file", "class", "cat"]
    record = {"file_name": "0.png", "probabilities": [0.2, 0.1, 0.7]}
    text = TASK.format_predictions([record], [{"name": name} for name in names])
    [row] = csv.DictReader(io.StringIO(text))
    assert len(row) == 2 + len(names)
    assert row["file"] == "0.png" and row["class"] == "cat"
