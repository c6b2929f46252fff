import pytest
import torch
from torch import nn

from cdl_d2.transfer import Taught


class Student(Taught, nn.Module):
    def __init__(self, wanted=True):
        super().__init__()
        self.own, self.built = nn.Linear(2, 2), 0
        self.learn_from(self._build, wanted)

    def _build(self):
        self.built += 1
        return nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))

    @property
    def device(self):
        return self.own.weight.device


def test_a_teacher_is_built_once_and_late_and_is_no_part_of_its_student():
    student = Student()
    assert student.built == 0
    teacher = student.teacher
    assert student.train().teacher is teacher and student.built == 1
    assert len(list(student.parameters())) == 2 and len(student.state_dict()) == 2
    assert not any(module.training for module in teacher.modules())
    assert not any(p.requires_grad for p in teacher.parameters())


def test_a_teacher_that_no_loss_compares_with_is_never_built():
    student = Student(wanted=False)
    student.prepare_teacher()
    assert student.built == 0


def test_an_error_of_the_building_is_raised_every_time():
    student = Student()
    student.learn_from(lambda: torch.load("/nowhere.pth"))
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            student.prepare_teacher()
