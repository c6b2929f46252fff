import copy
import pickle
from functools import partial

import pytest
import torch
from torch import nn

from cdl_d2.errors import CdlError
from cdl_d2.transfer import TeacherMixin


class Student(TeacherMixin, nn.Module):
    def __init__(self, enabled=True):
        super().__init__()
        self.own, self.built = nn.Linear(2, 2), 0
        self.set_teacher(self._build, enabled)

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
    student = Student(enabled=False)
    student.prepare_teacher()
    assert student.built == 0


def test_a_ready_network_is_a_teacher_and_is_frozen():
    student, teacher = Student(), nn.Linear(2, 2)
    student.set_teacher(teacher)
    assert any(p.requires_grad for p in teacher.parameters())
    assert student.teacher is teacher and not any(p.requires_grad for p in teacher.parameters())
    assert len(list(student.parameters())) == 2


def test_a_teacher_stays_in_eval_mode_whoever_else_trains_it():
    student, teacher = Student(), nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    student.set_teacher(teacher)
    nn.ModuleList([student, teacher]).train()
    assert not any(module.training for module in student.teacher.modules())


def test_students_on_two_devices_have_a_teacher_on_each():
    student = Student()
    elsewhere = copy.deepcopy(student).to("meta")
    assert elsewhere.teacher[0].weight.is_meta and not student.teacher[0].weight.is_meta
    assert elsewhere.teacher is elsewhere.teacher


def test_copies_share_the_teacher_whenever_it_is_built():
    student = Student()
    early = copy.deepcopy(student)
    teacher = student.teacher
    late = copy.deepcopy(student)
    assert early.teacher is teacher and late.teacher is teacher
    assert late.own.weight is not student.own.weight
    assert student.built == 1


def test_a_pickle_says_how_the_teacher_is_built_and_does_not_hold_it():
    student = Student()
    student.set_teacher(partial(nn.Linear, 300, 300))
    student.prepare_teacher()
    pickled = pickle.dumps(student)
    assert len(pickled) < 4 * 300 * 300
    assert pickle.loads(pickled).teacher.weight.shape == (300, 300)


def test_a_teacher_that_does_not_fit_is_rejected_every_time():
    class Choosy(Student):
        def check_teacher(self, teacher):
            raise CdlError("no")

    student = Choosy()
    for _ in range(2):
        with pytest.raises(CdlError):
            student.prepare_teacher()


def test_an_error_of_the_building_is_raised_every_time():
    student = Student()
    student.set_teacher(lambda: torch.load("/nowhere.pth"))
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            student.prepare_teacher()
