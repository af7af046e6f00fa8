"""The step benchmark: shapes, loss, remat choice, derived figures, and a few real steps at tiny size."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from benchmarks.step import __main__ as command
from benchmarks.step import ours, report, shapes
from model.flops import forward_flops, work_of
from model.model import create

pytestmark = pytest.mark.usefixtures("quick_compilation")


def fake_launch(record):
    """A worker that writes `record`; remembers what it was asked."""
    asked = []

    def launch(arguments, seconds=None):
        asked.append(arguments)
        with open(arguments[-1], "w") as file:
            json.dump(record(arguments) if callable(record) else record, file)
        return ""

    return launch, asked


def good(seconds=0.1):
    return {
        "status": "ok",
        "seconds": [seconds] * 3,
        "loss": 5.0,
        "peak_bytes": 6e10,
        "compile_seconds": 30.0,
        "remat": "none",
    }


class TestShapes:
    def test_dense_is_gemma_3_1b(self):
        shape = shapes.shape("dense", "full")
        assert num_params(shape) == pytest.approx(1.0e9, rel=0.01)
        assert shape.config.mixers.count("global") == 4
        assert len(shape.config.mixers) == 26

    def test_hybrid_has_about_1b_active_parameters(self, monkeypatch):
        modes = lambda N: (np.full(N, -0.5 + 1j), np.zeros((2 * N, N), complex))  # noqa: E731
        monkeypatch.setattr("model.recurrent.legs_eigenvalues", modes)  # an eigenproblem that takes seconds
        shape = shapes.shape("hybrid", "full")
        work = work_of(shapes.rows(1024), shape.config)
        parts = forward_flops(shape.config, shape.vocab_size, work)
        active = (parts["mixer"] + parts["ffn"] + parts["head"]) / 2 / 1024
        assert active == pytest.approx(1.0e9, rel=0.02)
        assert num_params(shape) == pytest.approx(3.83e9, rel=0.01)

    def test_flops_grow_with_what_is_recomputed_but_mfu_does_not_count_it(self):
        shape = shapes.shape("dense", "full")
        kept, recomputed = (shapes.flops(shape, 8192, remat) for remat in ("none", "block"))
        assert kept[0] == recomputed[0]
        assert kept[1] < recomputed[1]


def num_params(shape):
    model = jax.eval_shape(lambda: create(shape.config, shape.vocab_size, 0))
    return sum(np.prod(x.shape) for x in jax.tree.leaves(model))


class TestOurs:
    @pytest.mark.parametrize("name", ["dense", pytest.param("hybrid", marks=pytest.mark.slow)])
    def test_steps_run_and_start_from_an_uninformed_model(self, name, tmp_path):
        path = tmp_path / "record.json"
        ours.main([name, "auto", "small", "48", "2", str(path)])
        record = json.loads(path.read_text())
        assert len(record["seconds"]) == 2
        assert record["remat"] == "none"
        assert record["loss"] == pytest.approx(np.log(256), abs=1.0)

    def test_the_loss_in_blocks_is_the_mean_negative_log_likelihood(self, monkeypatch):
        monkeypatch.setattr(ours, "LOSS_BLOCK", 16)
        shape = shapes.shape("dense", "small")
        model = create(shape.config, shape.vocab_size, 0)
        rng = np.random.default_rng(0)
        tokens_BT = jnp.asarray(rng.integers(0, 256, (1, 40)))
        hidden_BTD = jnp.asarray(rng.normal(size=(1, 40, 32)), "float32")
        logits_BTV = model.token_logits(hidden_BTD)
        expected = optax.softmax_cross_entropy_with_integer_labels(logits_BTV, jnp.roll(tokens_BT, -1, axis=1)).mean()
        assert ours.next_token_loss(model, hidden_BTD, tokens_BT) == pytest.approx(float(expected), rel=1e-5)

    def test_the_first_policy_that_fits_is_taken(self, monkeypatch):
        sizes = {"none": 9e9, "dots": 3e9, "block": 1e9}
        policies = iter(sizes)
        lowered = []
        monkeypatch.setattr(ours, "train_step", lambda config, *rest: lowered.append(config.remat) or (lambda s, t: s))
        monkeypatch.setattr(ours, "bytes_of", lambda compiled: sizes[next(policies)])
        monkeypatch.setattr(jax, "devices", lambda: [Device({"bytes_limit": 4e9})])
        remat, _ = ours.compiled_step(shapes.shape("dense", "small"), ours.REMAT, optax.adamw(1e-4), jnp.zeros(3), 8)
        assert remat == "dots"
        assert lowered == ["none", "dots"]

    def test_a_program_that_never_fits_says_what_it_needs(self, monkeypatch):
        monkeypatch.setattr(ours, "train_step", lambda *rest: lambda s, t: s)
        monkeypatch.setattr(ours, "bytes_of", lambda compiled: 9e9)
        monkeypatch.setattr(jax, "devices", lambda: [Device({"bytes_limit": 4e9})])
        with pytest.raises(MemoryError, match="no remat policy fits into 4 GB"):
            ours.compiled_step(shapes.shape("dense", "small"), ours.REMAT, optax.adamw(1e-4), jnp.zeros(3), 8)


class Device:
    def __init__(self, stats):
        self.stats = stats

    def memory_stats(self):
        return self.stats


class TestReport:
    def test_mfu_is_counted_work_over_time_over_the_data_sheet(self):
        record = report.with_rates(good(0.5), "dense", "full", 8192, "NVIDIA H200, 143771 MiB")
        useful, executed = shapes.flops(shapes.shape("dense", "full"), 8192, "none")
        assert record["mfu"] == pytest.approx(useful / 0.5 / 989.4e12)
        assert record["hfu"] == pytest.approx(executed / 0.5 / 989.4e12)
        assert record["tokens_per_second"] == pytest.approx(16384)

    def test_no_mfu_on_a_device_without_a_known_peak(self):
        assert "mfu" not in report.with_rates(good(), "dense", "small", 64, None)

    def test_bars_are_judged_against_the_fastest_of_hf(self):
        rates = {"ours": (1300, 0.51), "hf_sdpa": (900, 0.3), "hf_flex": (1000, 0.35)}
        runs = {"dense 8192": {n: {"status": "ok", "tokens_per_second": r, "mfu": m} for n, (r, m) in rates.items()}}
        runs["hybrid 8192"] = {"ours": {"status": "ok", "tokens_per_second": 1.0, "mfu": 0.29}}
        assert [line[2:] for line in report.bars(runs)] == [("51.0%", "met"), ("1.30x", "met"), ("29.0%", "missed")]

    def test_without_figures_bars_are_unmeasured(self):
        runs = {"dense 8192": {"hf_sdpa": {"status": "failed", "reason": "x"}}}
        assert [line[3] for line in report.bars(runs)] == ["unmeasured", "unmeasured"]


NUMBERS = ["small", "64", "2"]


class TestCommand:
    @pytest.mark.parametrize(("tokens", "seconds"), [(["64"], 560), (["64", "128"], 280), (["64", "96", "128"], 280)])
    def test_runs_of_one_command_share_its_ten_minutes(self, tokens, seconds, tmp_path):
        given = []
        launch = lambda arguments, seconds: given.append(seconds) or "stopped"  # noqa: E731
        line = ["--model", "dense", "--impl", "ours", "--tokens", *tokens, "--out", str(tmp_path / "step.json")]
        command.main(line, launch)
        assert given == [seconds] * len(tokens)

    def test_a_policy_that_hf_lacks_is_refused(self, tmp_path):
        with pytest.raises(SystemExit):
            command.main(["--remat", "dots", "--out", str(tmp_path / "step.json")], lambda arguments, seconds: "")

    def test_results_of_other_settings_stay_in_the_file(self, tmp_path, capsys):
        out = tmp_path / "step.json"
        launch, asked = fake_launch(good())
        for tokens in ("64", "128"):
            line = ["--model", "dense", "--tokens", tokens, "--impl", "ours", "--scale", "small", "--out", str(out)]
            command.main(line, launch)
        assert set(json.loads(out.read_text())["runs"]) == {"dense 64", "dense 128"}
        assert asked[1][:6] == ["ours", "dense", "auto", "small", "128", "10"]
        assert "| dense 128 | ours | 1280 |" in capsys.readouterr().out

    def test_hf_recomputes_layers_only_where_memory_is_short(self, monkeypatch):
        monkeypatch.setattr(command.importlib.util, "find_spec", lambda name: object())
        launch, asked = fake_launch(lambda a: {"status": "out of memory"} if a[2] == "none" else good())
        assert command.measure("hf_sdpa", "dense", "auto", NUMBERS, launch)["status"] == "ok"
        assert [(arguments[1], arguments[2]) for arguments in asked] == [("sdpa", "none"), ("sdpa", "block")]

    def test_what_cannot_run_says_why(self, monkeypatch):
        launch, asked = fake_launch(good())
        assert command.measure("hf_sdpa", "hybrid", "auto", NUMBERS, launch)["status"] == "not supported"
        monkeypatch.setattr(command.importlib.util, "find_spec", lambda name: None)
        assert command.measure("hf_flash", "dense", "auto", NUMBERS, launch)["reason"] == (
            "needs torch, transformers, flash_attn"
        )
        assert not asked

    def test_a_dead_worker_is_a_failed_run(self):
        record = command.measure("ours", "dense", "auto", NUMBERS, lambda arguments: "stopped after 290 s")
        assert record == {"status": "failed", "reason": "stopped after 290 s"}


@pytest.mark.slow
def test_hf_trains_the_same_shape():
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from benchmarks.step import hf

    shape = shapes.shape("dense", "small")
    config = hf.hf_config(shape, 32, "sdpa")
    model = hf.Gemma3TextModel(config)
    assert sum(p.numel() for p in model.parameters()) == num_params(shape)
    assert hf.run(shape, "sdpa", "none", 32, 1)["loss"] == pytest.approx(np.log(256), abs=1.0)
