from __future__ import annotations

import base64
import html.parser
import io
import json
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from eval.report import build_page, load_run, write_report
from eval.report.charts import nice_ticks, short
from eval.report.load import Episode
from eval.report.success import pooled
from eval.report.videos import choose, gif
from eval.wilson import wilson_interval

ARMS, TASKS = ("arm5", "arm6", "arm7"), ("reach", "push")
RATES = {"normal": 0.74, "shuffled_instruction": 0.22, "blank_image": 0.12, "untrained": 0.01}
VOID = {"meta", "img", "line", "circle", "polygon", "polyline", "br"}


def write_phase(folder: pathlib.Path, losses: tuple[str, ...], steps: int, experts: int, random) -> None:
    folder.mkdir(parents=True)
    with (folder / "metrics.jsonl").open("w") as file:
        for step in range(0, steps, 5):
            row = {
                "step": step,
                "tokens_per_second": 5000 + random.normal(0, 200),
                "mfu": 0.31,
                "hfu": 0.34,
                "data_wait": 0.02,
            }
            for i, key in enumerate(losses):
                row[key] = (2.0 + i) * np.exp(-step / (60 + 30 * i)) + 1.2 + random.normal(0, 0.08)
            for layer in range(2 if experts else 0):
                spread = 0.2 + 1.5 * np.exp(-step / 40)
                load = np.exp(spread * np.sin(np.arange(experts) + layer) + random.normal(0, 0.05, experts))
                row[f"router/load_layer{layer}"] = (load / load.sum()).tolist()
            file.write(json.dumps(row) + "\n")
    (folder / "done.json").write_text(
        json.dumps({"seconds": steps / 3, "peak_memory_bytes": 2.1e9, "steps": steps, "parameters": 2_110_000})
    )


def write_episode(path: pathlib.Path, task: str, arm: str, success: bool, num_frames: int = 30) -> None:
    rows, columns = np.mgrid[:64, :64]
    frames = np.zeros((num_frames, 64, 64, 3), np.uint8) + 170
    frames[:, 44:52, 44:52] = (200, 40, 40)
    for i, frame in enumerate(frames):
        share = i / num_frames * (1.0 if success else 0.5)
        frame[(rows - 8 - 40 * share) ** 2 + (columns - 8 - 40 * share) ** 2 < 30] = (40, 60, 90)
    text = f"{'slide' if task == 'push' else 'touch'} the red block <now> & gently"
    np.savez(path, frames=frames, instruction=text, task=task, arm=arm, success=success)


def write_workdir(folder: pathlib.Path, steps: int = 300) -> pathlib.Path:
    """A made-up run with every part that a report can show."""
    random = np.random.default_rng(0)
    losses = ("loss", "loss/text", "loss/action", "loss/point")
    write_phase(folder / "pretrain", losses, steps, 8, random)
    write_phase(folder / "distil", ("loss", "loss/text"), steps // 2, 0, random)
    write_phase(folder / "specialise", ("loss", "loss/action"), steps, 0, random)
    success = []
    for task in TASKS:
        for arm in ARMS:
            for condition, rate in RATES.items():
                wins = int(random.binomial(50, rate))
                low, high = wilson_interval(wins, 50)
                record = {"task": task, "arm": arm, "condition": condition, "episodes": 50, "successes": wins}
                success.append(record | {"low": low, "high": high})
    summary = {
        "seconds": 553.0,
        "tokens_per_second": 5123.4,
        "mfu": 0.312,
        "peak_memory_bytes": 2_345_678_901,
        "bits_per_byte": 2.413,
        "bits_per_byte_trigram": 2.941,
        "teacher_loss": 1.612,
        "student_loss": 1.703,
        "success": success,
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    phases = {"specialise": {"steps": steps}, "pretrain": {"steps": steps}, "distil": {"steps": steps // 2}}
    order = ("pretrain", "distil", "specialise")
    config = {"seed": 0, "phases": {name: phases[name] for name in order}, "note": "</pre><script>"}
    (folder / "config.json").write_text(json.dumps(config))
    samples = [
        {
            "model": "student",
            "prompt": "ROMEO:\n",
            "text": "O, wherefore <i>art</i> thou so silent, gentle night,\nThat",
        }
    ]
    (folder / "samples.json").write_text(json.dumps(samples * 2))
    (folder / "episodes").mkdir()
    for i, (task, arm) in enumerate((task, arm) for task in TASKS for arm in ARMS):
        write_episode(folder / "episodes" / f"{i:03d}.npz", task, arm, success=i % 3 != 2)
    return folder


class Page(html.parser.HTMLParser):
    """Checks that tags are balanced and collects the text, the tags and the references."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.text, self.tags, self.references = [], "", [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.references += [value for name, value in attrs if name in ("src", "href", "data", "action", "srcset")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return write_workdir(tmp_path_factory.mktemp("runs") / "demo")


@pytest.fixture(scope="module")
def page(workdir):
    return build_page(load_run(workdir))


def test_the_page_is_well_formed_and_refers_to_nothing_outside_itself(page):
    parsed = Page(page)
    assert parsed.references
    assert all(reference.startswith("data:image/") for reference in parsed.references)
    assert not {"script", "link", "iframe", "i"} & set(parsed.tags)  # "i" would be the text sample's markup
    assert not re.search(r"https?://|@import|url\(", page)


def test_every_part_is_shown_with_its_figures(page):
    text = Page(page).text
    for figure in (
        "2.413",
        "18.0 % below trigram model (2.941)",
        "5.6 % above its teacher (1.612)",
        "9 min 13 s",
        "5.12k",
    ):
        assert figure in text
    for words in ("ROMEO", "O, wherefore <i>art</i>", "slide the red block <now> & gently", '"note": "</pre><script>"'):
        assert words in text
    assert "pretrain, layer 1" in text
    assert text.index("pretrain") < text.index("distil") < text.index("specialise")
    assert "not run" not in text
    assert "jax" in text


def test_success_is_pooled_over_arms_with_its_own_interval(workdir, page):
    records = json.loads((workdir / "summary.json").read_text())["success"]
    wins, episodes = pooled(records, "normal", ["reach"])
    assert (wins, episodes) == (
        sum(r["successes"] for r in records if (r["task"], r["condition"]) == ("reach", "normal")),
        150,
    )
    low, high = wilson_interval(wins, episodes)
    assert f"{100 * low:.0f}–{100 * high:.0f} · {wins}/150" in Page(page).text


def test_animations_keep_the_frames_and_hold_the_last_one():
    frames = np.random.default_rng(0).integers(0, 255, (20, 64, 64, 3), np.uint8)
    frames[:, :, 32:] = np.arange(20, dtype=np.uint8)[:, None, None, None] * 12
    image = Image.open(io.BytesIO(gif(frames)))
    assert (image.n_frames, image.size, image.info["loop"]) == (20, (128, 128), 0)
    durations = []
    for i in range(image.n_frames):
        image.seek(i)
        durations.append(image.info["duration"])
        assert np.abs(np.asarray(image.convert("RGB"))[:, 80:].astype(int) - 12 * i).mean() < 12
    assert durations[-1] > 1000 > durations[0]


def test_the_choice_of_episodes_shows_failures_and_all_arms():
    frames = np.zeros((1, 4, 4, 3), np.uint8)
    many = [Episode(frames, "go", task, arm, True) for task in TASKS for arm in ARMS for _ in range(20)]
    few = [Episode(frames, "go", "push", "arm7", False)]
    chosen = choose(many + few, count=7)
    assert len(chosen) == 7
    assert [e for e in chosen if not e.success] == few
    assert {(e.task, e.arm) for e in chosen} == {(task, arm) for task in TASKS for arm in ARMS}


def test_an_empty_run_says_not_run_everywhere(tmp_path):
    parsed = Page(build_page(load_run(tmp_path)))
    assert parsed.text.count("not run") == 6 + 7  # the cards, and every section but the versions


def test_an_unfinished_run_with_a_half_written_line_is_shown(tmp_path):
    folder = tmp_path / "pretrain"
    folder.mkdir()
    lines = [
        '{"step": 0, "loss": 9.0, "eval/loss": 7.0}',
        '{"step": 1, "loss": NaN}',
        '{"step": 0, "loss": 4.0}',
        '{"step": 2, "lo',
    ]
    (folder / "metrics.jsonl").write_text("\n".join(lines))
    run = load_run(tmp_path)
    assert run.phases[0].series("loss")[1].tolist() == [
        4.0
    ]  # the restarted step counts, the non-finite one is left out
    text = Page(build_page(run)).text
    assert "not finished" in text
    assert "total, held out" in text


def test_the_config_of_a_checkpoint_is_shown_where_no_other_is(tmp_path):
    path = tmp_path / "distil/checkpoints/20/files/config.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"seed": 31}')
    assert load_run(tmp_path).config == {"seed": 31}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("summary.json", b"{", "summary.json is not JSON"),
        ("pretrain/metrics.jsonl", b'oops\n{"step": 1}\n', "metrics.jsonl, line 1"),
        ("episodes/0.npz", b"no archive", "0.npz is no episode recording"),
    ],
)
def test_a_broken_file_is_refused_by_name(tmp_path, name, content, message):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_run(tmp_path)


def test_the_command_writes_the_file_and_names_a_missing_folder(workdir):
    path = write_report(workdir)
    assert path == workdir / "report.html"
    image = re.search(r"data:image/gif;base64,([^\"]+)", path.read_text())
    assert image
    assert base64.b64decode(image[1]).startswith(b"GIF89a")
    root = pathlib.Path(__file__).parents[2]
    command = [sys.executable, "-m", "eval.report", "no/such"]
    run = subprocess.run(command, cwd=root, text=True, capture_output=True)
    assert run.returncode == 1
    assert "error: no/such is not a folder" in run.stderr


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 1.0), (1.17, 3.04), (-3e-4, 2e-4), (5.0, 5.0), (0.0, 0.0), (990, 12_345)]
)
def test_ticks_are_few_round_and_span_the_values(low, high):
    ticks = nice_ticks(low, high)
    assert 3 <= len(ticks) <= 7
    assert ticks[0] <= low <= high <= ticks[-1]
    assert np.ptp(np.diff(ticks)) < 1e-9 * max(abs(high), 1)


def test_counts_are_shortened():
    assert [short(n) for n in (0, 950, 1234, 34_000, 5.6e6, 2e9)] == ["0", "950", "1.23k", "34k", "5.6M", "2G"]
