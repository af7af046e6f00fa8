"""The page of a job shows every figure of its summary and needs nothing outside itself."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from eval.jobs.command import GroupPrinter, shown, write_summary
from tests.eval.jobs.seer import ARMS, job
from tests.eval.test_report import Page

CONDITIONS = ("normal", "blank_image", "light", "typos", "placement")


def filled(folder, out: str, rate: float, step: int = 3, films: bool = True):
    """A job whose episodes are made up: most are solved, shifts less often."""
    made = job(folder, out, step, conditions=CONDITIONS, tasks=("reach", "push"), episodes=10)
    made.out.mkdir(parents=True)
    rng = np.random.default_rng(step)
    with (made.out / "records-0.jsonl").open("w") as file:
        for e in made.episodes:
            share = {"normal": 1.0, "blank_image": 0.0}.get(e.condition, 0.6)
            success = bool(rng.random() < rate * share)
            record = {"id": e.id, **e.group, "seed": e.seed, "instruction": "move <b>it</b>", "success": success}
            file.write(json.dumps(record | {"steps": 9}) + "\n")
            if films and e.index < 2 and e.condition != "blank_image":
                made._keep_film(record, np.full((4, 64, 64, 3), 60 * e.index, np.uint8))
    return made


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("jobs")
    return filled(folder, "out", 0.9), filled(folder, "out/compared", 0.4, step=4, films=False)


@pytest.fixture(scope="module")
def summary(two):
    return write_summary(*two)


def test_the_summary_is_on_disk_and_names_what_was_judged(two, summary):
    written = json.loads((two[0].out / "summary.json").read_text())
    assert written == json.loads(json.dumps(summary))
    assert (written["suite"], written["episodes"], written["name"]) == ("tabletop", 200, "some_run on tabletop")
    assert written["checkpoint"]["step"] == 3
    assert [c["step"] for c in written["compared"]["checkpoints"]] == [3, 4]
    assert written["compared"]["rows"][0]["difference"] > 0.2
    assert {"jax", "mujoco"} <= set(written["versions"])


def test_the_page_is_well_formed_and_refers_to_nothing_outside_itself(two, summary):
    page = (two[0].out / "report.html").read_text()
    parsed = Page(page)
    assert parsed.references
    assert all(reference.startswith("data:image/") for reference in parsed.references)
    assert not {"script", "link", "iframe"} & set(parsed.tags)
    assert not re.search(r"https?://|@import|url\(", page)
    assert "“move <b>it</b>”" in parsed.text  # as text, not as markup


def test_every_row_is_shown_with_its_interval(two, summary):
    text = Page((two[0].out / "report.html").read_text()).text
    assert "not run" not in text
    tasks = [row for row in summary["success"] if row["condition"] in ("normal", "blank_image")]
    shifts = [row for row in summary["conditions"] if "difference" in row and row["kind"] != "control"]
    assert (len(tasks), len(shifts)) == (8, 3)
    for row in [*tasks, *shifts, *summary["kinds"]]:
        assert f"{100 * row['low']:.0f}–{100 * row['high']:.0f} · {row['successes']}/{row['episodes']}" in text
    for row in summary["compared"]["rows"]:
        assert f"{100 * row['difference']:+.1f} points".replace("-", "−") in text
        assert f"{row['only_first']} : {row['only_second']}" in text
    for words in ("visual shifts", "reach (task)", "arm7 (arm)", "act, step 4", "placement"):
        assert words in text


def test_a_job_alone_has_no_comparison_and_says_which_parts_were_not_run(tmp_path):
    made = filled(tmp_path, "out", 0.5)
    only = job(tmp_path, "out", tasks=("reach",), episodes=10)
    write_summary(only, None)
    text = Page((made.out / "report.html").read_text()).text
    assert "Two checkpoints" not in text
    assert "not run" in text  # the shifts


def test_lines_for_the_terminal_say_the_same(summary):
    lines = shown(summary).splitlines()
    normal = next(row for row in summary["conditions"] if row["condition"] == "normal")
    assert any(line.startswith("normal") and f"of {normal['episodes']}" in line for line in lines)
    assert any("points from normal" in line for line in lines if line.startswith("light"))
    assert any(line.startswith("than the other, all") for line in lines)


def test_a_group_is_printed_once_when_its_last_episode_is_there(two):
    said = []
    printer = GroupPrinter(two[0], said.append)
    records = list(two[0].records().values())
    printer.begin(records[:-1])
    assert said == []
    printer.add(records[-1])
    (line,) = said
    assert line.split()[:3] == [records[-1]["task"], records[-1]["arm"], records[-1]["condition"]]
    assert records[-1]["arm"] in ARMS
