import math

import pytest
import torch

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.utils import comm

from cdl_d2.d2.evaluation.attributes import AttributeEvaluator
from cdl_d2.d2.evaluation.rate import RateEvaluator

TRUTH = torch.tensor([[0, 1, 1], [0, 1, 0], [0, 0, 0], [1, 1, 0]])


def evaluated(truth, probabilities):
    evaluator = AttributeEvaluator([f"a{i}" for i in range(truth.shape[1])])
    evaluator.reset()
    for row, row_probabilities in zip(truth, probabilities, strict=True):
        evaluator.process([{"attributes": row.tolist()}], [{"attributes": row_probabilities}])
    return evaluator.evaluate()["attributes"]


def test_right_answers_are_all_right():
    results = evaluated(TRUTH, 0.2 + 0.6 * TRUTH)
    assert results["accuracy"] == results["balanced_accuracy"] == 100
    assert results["majority"] == 75 and results["left_out"] == 0


def test_constant_answers_reach_the_majority_and_half_of_the_balanced_accuracy():
    always = (TRUTH.float().mean(0) > 0.5).float().expand(4, 3)
    results = evaluated(TRUTH, always)
    assert results["accuracy"] == results["majority"]
    assert results["balanced_accuracy"] == 50


def test_each_attribute_has_its_share_of_right_answers():
    probabilities = TRUTH.float().clone()
    probabilities[0, 1] = 0.5  # not above
    probabilities[:2, 2] = 1 - probabilities[:2, 2]
    results = evaluated(TRUTH, probabilities)
    assert [results[f"accuracy-a{i}"] for i in range(3)] == [100, 75, 50]
    assert results["accuracy"] == 75
    assert results["balanced_accuracy"] == pytest.approx(100 * (1 + 5 / 6 + 1 / 3) / 3)


def test_attributes_with_one_answer_only_are_left_out_of_the_balanced_accuracy():
    truth = torch.tensor([[1, 1], [1, 0]])
    results = evaluated(truth, torch.tensor([[0.0, 1.0], [0.0, 0.0]]))
    assert results["left_out"] == 1 and results["balanced_accuracy"] == 100
    assert math.isnan(evaluated(truth[:, :1], torch.zeros(2, 1))["balanced_accuracy"])


def test_parts_of_several_processes_count_together(monkeypatch):
    probabilities = torch.rand(4, 3, generator=torch.Generator().manual_seed(0))
    counts = []
    monkeypatch.setattr(comm, "gather", lambda part: counts.append(part) or counts)
    evaluated(TRUTH[:1], probabilities[:1])
    together = evaluated(TRUTH[1:], probabilities[1:])
    monkeypatch.undo()
    assert together == evaluated(TRUTH, probabilities)


def test_no_image_is_an_error():
    with pytest.raises(ValueError, match="no image"):
        evaluated(TRUTH[:0], TRUTH[:0])


def test_perceptual_distances_are_averaged_beside_the_rate():
    evaluator = RateEvaluator()
    evaluator.reset()
    for distance in (0.1, 0.3, None):
        output = {"bits": 50.0, "image_size": (10, 10), "perceptual": distance}
        evaluator.process([{}], [output if distance else output | {"perceptual": None}])
    rate = evaluator.evaluate()["rate"]
    assert rate["bpp"] == 0.5 and rate["perceptual"] == pytest.approx(0.2)
    assert "psnr" not in rate
