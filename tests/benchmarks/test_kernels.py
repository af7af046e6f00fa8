"""The kernel benchmark: what counts, that wrong or broken peers never win, and every part at tiny shapes on a CPU."""

import ast
import importlib.util
import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.kernels import __main__ as command
from benchmarks.kernels import bars, numerics, parts, suite, timing, worker
from benchmarks.kernels.cases import Attention, normal
from benchmarks.kernels.peers import cudnn, ours, xla
from benchmarks.kernels.reference import answers

pytestmark = pytest.mark.usefixtures("quick_compilation")

ROOT = pathlib.Path(__file__).parents[2]
MAY_IMPORT = {"benchmarks", "pallas_kernels", "model", "jax", "flax", "optax", "numpy", "matplotlib"}
PEERS = {"torch", "tokamax", "transformers"}


def in_this_process(arguments, seconds):
    del seconds
    worker.main(arguments)
    return ""


def case(name):
    return parts.case_named(name, "small")


def run_ours(name, **changes):
    """One record of our implementation; `changes` are put on the peer's module first."""
    with pytest.MonkeyPatch.context() as patch:
        for attribute, value in changes.items():
            patch.setattr(ours, attribute, value)
        return worker.run(case(name), "ours", answers(case(name)), lambda record: None, repeats=2, sample_seconds=0.0)


class TestCountedWork:
    @pytest.mark.parametrize("name", ["causal", "window", "packed"])
    def test_attention_counts_the_allowed_pairs_alone(self, name):
        attention = case(name)
        q, k = np.indices((attention.tokens, attention.tokens))
        segment_T = attention.segment_starts()
        allowed = (k <= q) & (segment_T[q] == segment_T[k]) & (q - k < (attention.window or attention.tokens))
        forward = allowed.sum() * 4 * attention.num_heads * attention.head_dim
        assert attention.work("forward") == forward
        assert attention.work("backward") == 2.5 * forward
        assert attention.work("both") == 3.5 * forward

    @pytest.mark.parametrize(
        ("name", "direction", "work"),
        [
            ("causal", "forward", 1.0996e12),
            ("window", "forward", 1.0953e12),
            ("scan", "forward", 8.59e9),
            ("scan", "both", 21.47e9),
            ("experts", "forward", 6.597e12),
            ("experts", "both", 19.79e12),
            ("grouped matmul", "weight gradient", 4.398e12),
            ("decode", "forward", 8.59e9),
        ],
    )
    def test_the_full_shapes_are_those_of_the_floors(self, name, direction, work):
        assert parts.case_named(name, "full").work(direction) == pytest.approx(work, rel=1e-3)

    def test_packed_segments_fill_the_row_with_lengths_of_1k_to_16k(self):
        assert len(parts.SEGMENTS) == 16
        assert sum(parts.SEGMENTS) == 65536
        assert min(parts.SEGMENTS) >= 1024
        assert max(parts.SEGMENTS) == 16384


class TestData:
    def test_numbers_are_normal_and_depend_on_name_and_shape_alone(self):
        first = normal("a", (3000, 3000))  # several threads' worth
        assert np.array_equal(first, normal("a", (3000, 3000)))
        assert not np.array_equal(first, normal("b", (3000, 3000)))
        assert abs(first.mean()) < 1e-3
        assert first.std() == pytest.approx(1, abs=1e-3)

    def test_every_slot_of_the_ring_holds_the_position_it_must(self):
        decode = case("decode")
        constants = decode.constants()
        assert np.array_equal(constants["position"] % decode.slots, np.tile(np.arange(decode.slots), (decode.batch, 1)))
        assert np.all((constants["lo"] <= constants["position"]) & (constants["position"] < constants["hi"]))

    def test_group_sizes_add_up_and_are_uneven(self):
        matmul = parts.case_named("grouped matmul", "full")
        assert matmul.sizes().sum() == matmul.num_rows
        assert np.any(matmul.sizes() % 64)

    @pytest.mark.parametrize("name", ["causal", "scan", "grouped matmul", "decode"])
    def test_a_change_outside_the_checked_slice_does_not_reach_its_answer(self, name, monkeypatch):
        before = answers(case(name))
        inputs = type(case(name)).inputs

        def changed(self):
            arrays = inputs(self)
            for key, array in arrays.items():
                mark = self.slice_of(key, np.arange(array.size).reshape(array.shape))
                outside = np.setdiff1d(np.arange(array.size), mark)
                array.reshape(-1)[outside] += 1
            return arrays

        monkeypatch.setattr(type(case(name)), "inputs", changed)
        record = worker.run(case(name), "ours", before, lambda record: None, repeats=1, sample_seconds=0.0)
        assert {figure["status"] for figure in record["directions"].values()} == {"ok"}


class TestTiming:
    def test_quartiles_are_in_order_and_count_every_call(self):
        calls = []
        spread = timing.measure(calls.append, lambda _: None, repeats=4, sample_seconds=1e-4)
        assert spread["min_ms"] <= spread["q1_ms"] <= spread["median_ms"] <= spread["q3_ms"] <= spread["max_ms"]
        assert len(calls) == 3 + 4 * spread["calls_per_repeat"]

    def test_small_inputs_are_rotated_and_large_ones_are_not(self):
        assert timing.copies_of_inputs(1000) == timing.MAX_COPIES
        assert timing.copies_of_inputs(120_000_000) == 2
        assert timing.copies_of_inputs(2_000_000_000) == 1


class TestWorker:
    def test_a_wrong_answer_is_never_timed(self):
        def half_wrong(case):
            right = xla.scan(case)
            return lambda constants, *planes: tuple(1.001 * h for h in right(constants, *planes))

        record = run_ours("scan", scan=half_wrong)
        assert {figure["status"] for figure in record["directions"].values()} == {"wrong"}
        assert not any("median_ms" in figure for figure in record["directions"].values())

    def test_nan_is_wrong(self):
        record = run_ours("scan", scan=lambda case: lambda _, a_re, a_im, *x: (x[0] * jnp.nan, x[1]))
        assert record["directions"]["forward"]["status"] == "wrong"

    def test_a_broken_backward_pass_leaves_the_forward_figure(self, monkeypatch):
        def broken(self):
            raise RuntimeError("out of memory")

        monkeypatch.setattr("benchmarks.kernels.run_jax.Runner.gradients", broken)
        directions = run_ours("causal")["directions"]
        assert directions["forward"]["status"] == "ok"
        assert directions["forward"]["rate"] > 0
        assert directions["both"] == {"status": "failed", "reason": "RuntimeError: out of memory", "errors": {}}

    def test_what_a_peer_has_no_function_for_is_not_supported(self):
        record = worker.run(case("copy"), "ours", {}, lambda record: None)
        assert (record["status"], record["reason"]) == ("not supported", "NotSupported: ours has no copy")

    def test_cudnn_refuses_a_cpu(self):
        record = worker.run(case("causal"), "cudnn", {}, lambda record: None)
        assert record["status"] == "not supported"

    def test_cudnn_gets_a_window_only_together_with_a_causal_mask(self, monkeypatch):
        seen = {}
        monkeypatch.setattr(cudnn, "_require_gpu", lambda: None)
        monkeypatch.setattr("jax.nn.dot_product_attention", lambda q, k, v, **options: seen.update(options))
        cudnn.attention(Attention("window", tokens=64, window=16))({}, None, None, None)
        assert seen["is_causal"] is True
        assert seen["local_window_size"] == (15, 0)  # keys to the left, the query's own not counted


class TestSuite:
    @pytest.mark.parametrize(
        "part", ["attention", pytest.param("window", marks=pytest.mark.slow), "packed", "scan", "moe", "decode"]
    )
    def test_every_part_runs_at_small_scale_and_ours_is_right(self, part, tmp_path):
        out = tmp_path / "kernels.json"
        command.main(["--part", part, "--scale", "small", "--out", str(out)], launch=in_this_process)
        results = json.loads(out.read_text())
        assert set(results["parts"]) == {"ceilings", part}
        assert set(results["parts"][part]["ceilings"]) == {"TFLOP/s", "GB/s"}
        for small in parts.cases(part, "small"):
            figures = results["parts"][part]["cases"][small.name]
            assert list(figures) == list(parts.IMPLEMENTATIONS[part])
            assert set(figures["ours"]["directions"]) == set(small.directions)
            for figure in figures["ours"]["directions"].values():
                assert figure["status"] == "ok"
                assert figure["rate"] > 0
                assert figure["of_ceiling"] > 0
        assert importlib.util.find_spec("matplotlib") is None or out.with_suffix(".png").stat().st_size > 5000

    def test_a_dead_worker_costs_only_what_it_had_not_measured(self, monkeypatch):
        monkeypatch.setitem(suite.IMPLEMENTATIONS, "scan", ("ours", "xla_adjoint"))
        figure = {"status": "ok", "median_ms": 1.0, "rate": 2.0, "unit": "GB/s"}

        def dies(arguments, seconds):
            if arguments[0] == "ours":
                worker.write(arguments[-1], {"status": "running", "directions": {"forward": figure}})
                return "the process ended with code -11"
            return in_this_process(arguments, seconds)

        saved = []
        found = suite.run_part("scan", "small", {}, lambda figures: saved.append(json.dumps(figures)), dies)["scan"]
        assert found["ours"]["directions"]["forward"] == figure
        assert found["ours"]["directions"]["backward"]["reason"] == "the process ended with code -11"
        assert found["xla_adjoint"]["directions"]["backward"]["status"] == "ok"
        assert len(saved) == 2

    def test_without_a_reference_nothing_counts(self):
        found = suite.run_part("scan", "small", {}, lambda figures: None, lambda arguments, seconds: "stopped")
        assert {record["status"] for record in found["scan"].values()} == {"failed"}

    def test_a_missing_package_is_told_and_starts_no_process(self, monkeypatch):
        monkeypatch.setattr(suite.importlib.util, "find_spec", lambda name: None)
        found = suite.run_part("decode", "small", {}, lambda figures: None, in_this_process)["decode"]
        assert found["torch_sdpa"] == {"status": "not installed", "reason": "needs the package torch"}

    def test_a_part_out_of_time_starts_no_more_workers(self, monkeypatch):
        monkeypatch.setattr(suite, "PART_SECONDS", 0.0)
        found = suite.run_part("decode", "small", {}, lambda figures: None, lambda arguments, seconds: "")["decode"]
        assert found["ours"]["reason"].startswith("no time left")

    @pytest.mark.slow
    def test_the_command_runs_workers_in_processes_and_keeps_other_parts(self, tmp_path):
        out = tmp_path / "kernels.json"
        out.write_text(json.dumps({"parts": {"scan": {"ceilings": {}, "cases": {}}}}))
        line = [sys.executable, "-m", "benchmarks.kernels", "--part", "decode", "--scale", "small", "--out", str(out)]
        printed = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True, timeout=200).stdout
        assert "| decode | forward | >= 0.8 of copy bandwidth |" in printed
        results = json.loads(out.read_text())
        assert set(results["parts"]) == {"scan", "ceilings", "decode"}
        assert results["parts"]["decode"]["cases"]["decode"]["ours"]["directions"]["forward"]["status"] == "ok"


class TestBars:
    @staticmethod
    def results(part, name, accelerator="NVIDIA H200", scale="full", **implementations):
        records = {
            peer: {
                "status": "ok",
                "directions": {direction: {"status": "ok", **figure} for direction, figure in d.items()},
            }
            for peer, d in implementations.items()
        }
        machine = {"accelerator": accelerator}
        return {"parts": {part: {"scale": scale, "machine": machine, "cases": {name: records}}}}

    @staticmethod
    def bar(text):
        return next(bar for bar in bars.BARS if text in bar.text)

    def test_the_best_right_peer_is_the_one_to_beat(self):
        times = {"ours": 2.0, "cudnn": 4.0, "torch_flex": 3.0}
        results = self.results("packed", "packed", **{n: {"both": {"median_ms": t}} for n, t in times.items()})
        results["parts"]["packed"]["cases"]["packed"]["torch_sdpa"] = {
            "status": "ok",
            "directions": {"both": {"status": "wrong", "reason": "relative errors"}},
        }
        assert bars.value_of(self.bar("right peer"), results) == (1.5, "torch_flex")
        assert bars.verdict(self.bar("right peer"), results) == "met"

    @pytest.mark.parametrize(("ms", "verdict"), [(1.0, "met"), (1.01, "missed")])
    def test_a_ratio_below_its_bar_is_missed(self, ms, verdict):
        results = self.results("scan", "scan", ours={"both": {"median_ms": ms}}, xla={"both": {"median_ms": 4.0}})
        assert bars.verdict(self.bar("associative_scan"), results) == verdict

    def test_rates_and_shares_are_our_own(self):
        ours_decode = {"forward": {"median_ms": 1.0, "of_ceiling": 0.85}}
        assert bars.verdict(self.bar("copy"), self.results("decode", "decode", ours=ours_decode)) == "met"
        ours_moe = {"both": {"median_ms": 1.0, "rate": 540.0}}
        assert bars.verdict(self.bar("550"), self.results("moe", "experts", ours=ours_moe)) == "missed"

    @pytest.mark.parametrize("change", [{"accelerator": None}, {"accelerator": "NVIDIA H100"}, {"scale": "small"}])
    def test_another_device_or_scale_says_nothing(self, change):
        figures = {"ours": {"both": {"median_ms": 1.0}}, "xla": {"both": {"median_ms": 9.0}}}
        assert (
            bars.verdict(self.bar("associative_scan"), self.results("scan", "scan", **change, **figures))
            == "unmeasured"
        )

    def test_ours_wrong_is_missed_and_no_peer_is_unmeasured(self):
        results = self.results("scan", "scan", ours={"both": {"median_ms": 1.0}})
        assert bars.verdict(self.bar("associative_scan"), results) == "unmeasured"
        results["parts"]["scan"]["cases"]["scan"]["ours"]["directions"]["both"] = {"status": "wrong"}
        assert bars.verdict(self.bar("associative_scan"), results) == "missed"

    def test_the_table_has_a_line_for_each_bar_even_without_results(self):
        lines = bars.table({"parts": {}}).splitlines()
        assert len(lines) == 2 + len(bars.BARS)
        assert all(line.endswith("unmeasured |") for line in lines[2:])


class TestNumerics:
    @pytest.fixture(autouse=True)
    def _no_program_of_another_test(self):
        numerics._forward.cache_clear()
        numerics._backward.cache_clear()

    @pytest.mark.parametrize("operation", numerics.OPERATIONS)
    def test_every_operation_passes_at_small_scale(self, operation, tmp_path):
        out = tmp_path / "numerics.json"
        found = numerics.run(operation, "small", out)
        assert {entry["status"] for entry in found} == {"ok"}
        assert json.loads(out.read_text()) == found

    def test_a_wrong_gradient_is_found(self, tmp_path, monkeypatch):
        def wrong(x, w, sizes, *, backend):
            y = x @ w[0]
            return y if backend == "reference" else y + 0.1 * (y - jax.lax.stop_gradient(y))

        monkeypatch.setattr(numerics, "grouped_matmul", wrong)
        monkeypatch.setattr(numerics, "backend", lambda: "gpu")
        found = numerics.run("matmul", "small", tmp_path / "n.json")
        assert {entry["status"] for entry in found} == {"wrong"}
        assert all(entry["errors"]["output 0"] < 1e-2 < entry["errors"]["gradient 0"] for entry in found)

    def test_a_refused_combination_is_told_from_a_failure(self, tmp_path, monkeypatch):
        monkeypatch.setattr(numerics, "backend", lambda: "gpu")  # forced on a CPU
        found = numerics.run("matmul", "small", tmp_path / "n.json")
        assert {entry["status"] for entry in found} == {"not supported"}

    @pytest.mark.parametrize("mask", numerics.MASKS)
    def test_masks_are_intervals_that_do_not_go_back(self, mask):
        lo_T, hi_T, S = numerics.interval(mask, 96)
        real = lo_T < hi_T
        assert np.all(np.diff(lo_T[real]) >= 0)
        assert np.all(np.diff(hi_T[real]) >= 0)
        assert hi_T.max() <= S


def test_a_result_without_figures_is_drawn_too(tmp_path):
    pytest.importorskip("matplotlib")
    from benchmarks.kernels import plot

    path = tmp_path / "empty.json"
    path.write_text(json.dumps({"parts": {"ceilings": {"ceilings": {}, "cases": {}}}}))
    assert plot.draw(path) == path.with_suffix(".png")


def test_the_benchmarks_import_nothing_but_what_they_measure():
    for path in [*(ROOT / "benchmarks/kernels").rglob("*.py"), *(ROOT / "benchmarks/step").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            tops = {name.split(".")[0] for name in names} - {"__future__", *sys.stdlib_module_names}
            assert tops <= MAY_IMPORT | PEERS, (path, tops)


class TestTorchPeers:
    """Only where torch is installed; its GPU kernels are checked by the benchmark itself."""

    @pytest.mark.parametrize(
        ("peer", "name"), [("torch_sdpa", "causal"), ("torch_sdpa", "decode"), ("torch_grouped", "experts")]
    )
    def test_a_peer_gives_the_reference_answer(self, peer, name):
        pytest.importorskip("torch")
        record = worker.run(case(name), peer, answers(case(name)), lambda record: None, repeats=1, sample_seconds=0.0)
        assert {figure["status"] for figure in record["directions"].values()} == {"ok"}
