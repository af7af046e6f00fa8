from configs.command import read
from train.build import check
from train.phases import read_sections
from train.sections import completed


def test_the_students_differ_in_what_they_learn_from_alone():
    config = read("configs/distillation.py", (), completed)
    check(config)
    phases = read_sections(config)[1]
    students = {name: phase for name, phase in phases.items() if name != "teach"}
    assert len({(p.model, p.steps, str(p.pipeline), str(p.mixture), p.optimizer) for p in students.values()}) == 1
    assert {name: (p.objective, p.teacher_phase, p.teacher_store is not None) for name, p in students.items()} == {
        "hard": ("next_token", None, False),
        "online": ("distill", "teach", False),
        "sampled": ("distill", None, True),
        "topk": ("distill", None, True),
    }
