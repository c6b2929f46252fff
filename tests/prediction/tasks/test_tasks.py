"""The tables of tasks: the base, predictions, and Detectron2."""

import numpy as np
import pytest
import torch

from cdl_d2 import tasks
from cdl_d2.prediction.tasks import TASKS

K, SIZE = 3, (4, 6)
OUTPUTS = {  # of a network, for one image
    "classification": {"scores": torch.tensor([0.2, 0.5, 0.3])},
    "segmentation": {"sem_seg": torch.arange(K * 24.0).reshape(K, *SIZE)},
    "multitask": {
        "sem_seg": torch.arange(K * 24.0).reshape(K, *SIZE),
        "attributes": torch.tensor([0.25, 0.75]),
        "attribute_names": ("hat", "bag"),
    },
    "detection": {
        "boxes": torch.tensor([[0.0, 0, 2, 2], [1, 1, 5, 3]]),
        "labels": torch.tensor([0, 2]),
        "scores": torch.tensor([0.4, 0.9]),
        "masks": torch.ones(2, *SIZE) > 0,
    },
}


def test_every_task_can_be_predicted():
    assert set(tasks.TASKS) == set(TASKS) == set(OUTPUTS)


def test_what_is_trained_can_be_predicted():
    pytest.importorskip("detectron2", reason="Detectron2 is not installed")
    from cdl_d2.d2.tasks.table import TASKS as TRAINED

    assert {task.name for task in TRAINED} == set(TASKS)
    for task in TRAINED:
        assert task.of_one_size == TASKS[task.name].of_one_size


@pytest.mark.parametrize("name", TASKS)
def test_a_tasks_answers_say_what_its_network_said(name):
    task, saved = TASKS[name], []
    names = ("a", "b", "c")
    prediction = task.prediction(OUTPUTS[name], image_size=SIZE, class_names=names)
    entry = task.to_record(
        prediction, lambda folder, pixels: saved.append(pixels) or f"{folder}/x.png"
    )
    entry |= {"file_name": "x.png", "id": 7}
    text = task.format_predictions(
        [entry], [{"id": i, "name": n} for i, n in zip((5, 6, 9), names, strict=True)]
    )
    expected = {
        "classification": "file,class,a,b,c\nx.png,b,0.200000,0.500000,0.300000\n",
        "segmentation": "file,label_map\nx.png,labels/x.png\n",
        "multitask": "file,label_map,hat,bag\nx.png,labels/x.png,0.250000,0.750000\n",
        "detection": '[{"image_id": 7, "category_id": 9, "bbox": [1.0, 1.0, 4.0, 2.0], ',
    }
    assert text.startswith(expected[name])
    if "label_map" in entry:
        assert np.array_equal(saved, np.full((1, *SIZE), 2, np.uint8))
