import pytest

from tests.train.goodput.runs import write_run
from train.goodput.account import account, accounts, attempts_of, stragglers


def test_every_second_between_the_first_start_and_the_last_end_is_in_one_category(tmp_path):
    write_run(tmp_path)
    (found,) = accounts(tmp_path)
    assert found.seconds == {
        "productive": 8 + 10 + 20,
        "data wait": 2,
        "compile": 4 + 4,
        "evaluation": 5,
        "checkpoint": 1 + 1 + 7,
        "check": 0,
        "start-up": 5 + 3,
        "restart": (1055 - 1041) + 6 + 4,
        "lost work": 7,
        "other": 1,
    }
    assert found.total == 1102 - 1000
    assert found.goodput == 38 / 102


def test_starts_tell_after_which_step_they_went_on_and_why_they_ended(tmp_path):
    write_run(tmp_path)
    starts = account(tmp_path / "pretrain").starts
    assert [(s["time"], s["step"], s["why it ended"]) for s in starts] == [(1000, 0, "killed"), (1055, 20, "finished")]


def test_a_start_that_died_before_it_read_its_state_neither_keeps_nor_loses_steps(tmp_path):
    write_run(tmp_path)
    path = tmp_path / "pretrain" / "events" / "0.jsonl"
    cut = '{"time": 1050, "kind": "start", "seconds": 4, "pid": 3, "processes": 2}\n'
    path.write_text(path.read_text().replace('{"time": 1061', cut + '{"time": 1061'))
    found = account(tmp_path / "pretrain")
    assert (found.seconds["lost work"], found.seconds["restart"], found.total) == (7, 24, 102)


def test_half_a_stretch_of_steps_is_lost_if_the_run_goes_on_from_inside_it(tmp_path):
    write_run(tmp_path)
    path = tmp_path / "pretrain" / "events" / "0.jsonl"
    path.write_text(path.read_text().replace('"state", "seconds": 4, "step": 20', '"state", "seconds": 4, "step": 15'))
    seconds = account(tmp_path / "pretrain").seconds
    assert seconds["lost work"] == 5 + 1 + 7  # steps 16 to 20, the checkpoint of step 20, which was broken, 21 to 27


def test_the_rank_that_others_wait_for_is_named(tmp_path):
    write_run(tmp_path)
    ranks = account(tmp_path / "pretrain").ranks
    assert [(rank["rank"], rank["steps"]) for rank in ranks] == [(0, 47), (1, 20)]
    assert ranks[1]["own_ms"] == pytest.approx(1000 * (20 - 2) / 20)
    even = {"step_ms": 100.0, "own_ms": 10.0}
    slow = {"step_ms": 100.0, "own_ms": 40.0}
    assert stragglers([{"rank": i, **(slow if i == 2 else even)} for i in range(4)]) == [2]
    assert stragglers([{"rank": i, **even} for i in range(4)]) == []
    assert stragglers([{"rank": 0, **slow}]) == []


def test_phases_come_in_the_order_in_which_they_began(tmp_path):
    write_run(tmp_path)
    later = tmp_path / "distil" / "events"
    later.mkdir(parents=True)
    text = (tmp_path / "pretrain" / "events" / "0.jsonl").read_text()
    (later / "0.jsonl").write_text(text.replace('"time": 1', '"time": 2'))
    assert [a.phase for a in accounts(tmp_path)] == ["pretrain", "distil"]
    assert [a.phase for a in accounts(tmp_path / "distil")] == ["distil"]


def test_a_cut_line_is_left_out_and_what_follows_is_read(tmp_path):
    write_run(tmp_path)
    first, second = attempts_of(tmp_path / "pretrain" / "events" / "0.jsonl")
    assert (first.lines[-1]["last"], second.step, second.why) == (27, 20, "finished")


@pytest.mark.parametrize("files", [(), ("pretrain/events/1.jsonl",)])
def test_a_folder_without_events_is_refused(tmp_path, files):
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).write_text("")
    with pytest.raises(ValueError, match=r"holds no"):
        accounts(tmp_path)
