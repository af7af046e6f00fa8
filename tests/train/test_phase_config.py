import dataclasses

import pytest

from configs.schema import parse
from train.config import PhaseConfig, TrainConfig, check_phases

PHASE = {
    "objective": "next_token",
    "model": "base",
    "mixture": {"text": 1},
    "pipeline": {"batch_size": 8, "slots": 16},
    "steps": 10,
}


def phase(**changes):
    return parse(PhaseConfig, {**PHASE, **changes}, "config.phases.p")


def check(phases, order=None):
    check_phases(
        TrainConfig(phases=order or tuple(phases)),
        phases,
        models={"base"},
        sources={"text"},
        objectives={"next_token": "none", "distillation": "required", "preference": "optional"},
        stores=("distillation",),
    )


def test_a_phase_may_start_from_another_phase_or_from_a_checkpoint_elsewhere():
    assert [(p.init_phase, p.init_path) for p in (phase(), phase(init="phase:a"), phase(init="path:/runs/a"))] == [
        (None, None),
        ("a", None),
        (None, "/runs/a"),
    ]
    check({"b": phase(init="path:a")})  # no phase of this run


def test_a_teacher_may_be_a_phase_a_checkpoint_elsewhere_or_a_store():
    teachers = [phase(teacher=teacher) for teacher in (None, "a", "path:/runs/a", "store:/stores/a")]
    assert [(p.teacher_phase, p.teacher_path, p.teacher_store) for p in teachers] == [
        (None, None, None),
        ("a", None, None),
        (None, "/runs/a", None),
        (None, None, "/stores/a"),
    ]
    for teacher in ("path:/runs/a", "store:/stores/a"):
        check({"b": phase(objective="distillation", teacher=teacher)})  # no phase of this run


def test_an_objective_may_leave_the_teacher_to_the_config():
    check({"a": phase(), "b": phase(objective="preference"), "c": phase(objective="preference", teacher="a")})


def test_a_chain_of_phases_is_accepted():
    student = phase(objective="distillation", teacher="a", init="phase:a", copy=(("stack", "stack"),))
    check({"a": phase(), "b": student})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "config.phases.p.steps is 0"),
        ({"accumulate": 3}, "config.phases.p.accumulate is 3; it must divide batch_size 8"),
        ({"ema": 1.0}, "config.phases.p.ema is 1.0"),
        ({"mixture": {}}, "config.phases.p.mixture is {}"),
        ({"mixture": {"text": 0}}, "config.phases.p.mixture is {'text': 0.0}"),
        ({"init": "pretrain"}, "config.phases.p.init is 'pretrain'; it must be 'scratch' or 'phase:<name>' or 'path"),
        ({"copy": (("a", "b"),)}, "copies nothing"),
        ({"eval_every": -1}, "config.phases.p.eval_every is -1"),
        ({"optimizer": {"momentum": 0.9}}, "config.phases.p.optimizer.momentum is 0.9; it must be left out"),
        ({"teacher": "store:"}, "config.phases.p.teacher is 'store:'; it must be a phase, 'path:<folder>' or 'store:<"),
        ({"stepz": 5}, "Did you mean 'steps'"),
    ],
)
def test_a_phase_that_cannot_work_is_refused_by_the_full_name_of_the_field(changes, message):
    with pytest.raises(ValueError) as error:
        phase(**changes)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"phases": ()}, "phases is ()"),
        ({"phases": ("a", "a")}, "phases is ('a', 'a')"),
        ({"steps": 0}, "steps is 0"),
        ({"keep": 0}, "keep is 0"),
        ({"local_every": 5}, "local_every is 5 but local_checkpoints names no folder; give one"),
        ({"integrity_every": -1}, "integrity_every is -1; it must be 0 or more steps"),
        ({"spike_factor": 1.0}, "spike_factor is 1.0"),
        ({"watchdog_seconds": 1.0}, "watchdog_seconds is 1.0; it must be at least 5, or None for no end"),
        (
            {"watchdog_pause_seconds": 30.0},
            "watchdog_pause_seconds is 30.0; it must be at least watchdog_seconds (45.0)",
        ),
    ],
)
def test_train_settings_out_of_range_are_refused(changes, message):
    with pytest.raises(ValueError) as error:
        TrainConfig(**{"phases": ("a",), **changes})
    assert message in str(error.value)


def refusals():
    base = phase()
    change = lambda **fields: dataclasses.replace(base, **fields)  # noqa: E731
    yield {"a": base}, ("a", "b"), "config.train.phases names 'b'; known phases: a"
    yield {"a": change(model="big")}, None, "config.phases.a.model names 'big'; known models: base"
    yield {"a": change(objective="magic")}, None, "config.phases.a.objective names 'magic'"
    yield {"a": change(mixture={"web": 1.0})}, None, "config.phases.a.mixture names 'web'; known sources: text"
    yield {"a": change(init="phase:z")}, None, "config.phases.a.init names 'z'; known phases before it"
    yield {"a": change(init="phase:b"), "b": base}, None, "config.phases.a.init names 'b'"
    yield {"a": change(objective="distillation")}, None, "config.phases.a.teacher is None but objective"
    yield {"a": base, "b": change(teacher="a")}, None, "config.phases.b.teacher is 'a' but objective 'next_token' takes"
    yield {"a": change(objective="distillation", teacher="z")}, None, "config.phases.a.teacher names 'z'; known phases"
    stored = change(objective="preference", teacher="store:s")
    yield {"a": stored}, None, "config.phases.a.teacher is 'store:s' but objective 'preference' needs a model; name a"
    yield {"a": base, "b": base}, ("a",), "config.phases.b is in no run"


@pytest.mark.parametrize(("phases", "order", "message"), list(refusals()))
def test_phases_that_do_not_fit_together_are_refused(phases, order, message):
    with pytest.raises(ValueError) as error:
        check(phases, order)
    assert message in str(error.value)
