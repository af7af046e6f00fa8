"""What the ahead-of-time compilation makes of the compilers' words; nothing is compiled here."""

import json
import subprocess
import types

import pytest

from benchmarks.aot import __main__ as aot
from benchmarks.aot import ptxas, rules
from benchmarks.aot.cases import CASES

# Printed for JAX's own attention with tiles of 64 x 128 (JAX 0.11.2), of 128 x 128 (0.11.2), and of 128 x 128 through
# nvJitLink (0.12.0.1); the launches are shortened to what is read.
CLEAN = """ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'entry_mosaic_gpu_kernel' for 'sm_90a'
ptxas info    : Function properties for entry_mosaic_gpu_kernel
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 168 registers, used 16 barriers, 1 bytes smem
ptxas info    : Compile time = 229.332 ms
  %412 = call i32 @mosaic_gpu_launch_kernel(ptr %0, i32 1, i32 32, i32 16, i32 0, i32 0, i32 0, i32 384, i32 1, i32 1, \
i32 165976, i32 0, ptr %1, ptr %409)
"""
SPILLED = """ptxas info    : (C7512) Potential Performance Loss: wgmma.mma_async instructions are serialized due to \
insufficient register resources for the function 'entry_mosaic_gpu_kernel'
ptxas warning : Registers are spilled to local memory in function 'entry_mosaic_gpu_kernel', 1888 bytes spill stores, \
1704 bytes spill loads
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'entry_mosaic_gpu_kernel' for 'sm_90a'
ptxas info    : Function properties for entry_mosaic_gpu_kernel
    656 bytes stack frame, 1888 bytes spill stores, 1704 bytes spill loads
ptxas info    : Used 168 registers, used 16 barriers, 656 bytes cumulative stack size, 1 bytes smem
ptxas info    : Compile time = 702.636 ms
"""
NVJITLINK = """ptxas info    : (C7504) Potential Performance Loss: 'setmaxnreg' ignored to maintain compatibility \
across compilation units.
ptxas info    : (C7511) Potential Performance Loss: wgmma.mma_async instructions are serialized due to insufficient \
register resources for the wgmma pipeline in the function 'entry_mosaic_gpu_kernel' in line 2467
ptxas warning : Registers are spilled to local memory in function 'entry_mosaic_gpu_kernel', 7152 bytes spill stores, \
6656 bytes spill loads
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'entry_mosaic_gpu_kernel' for 'sm_90a'
ptxas info    : Function properties for entry_mosaic_gpu_kernel
ptxas         .     1888 bytes stack frame, 7152 bytes spill stores, 6656 bytes spill loads
ptxas info    : Used 168 registers, used 16 barriers, 17 bytes smem
ptxas info    : Compile time = 527.060 ms
info    : 0 bytes gmem
info    : Function properties for 'entry_mosaic_gpu_kernel':
info    : used 168 registers, used 16 barriers, 1888 stack, 1025 bytes smem, 1088 bytes cmem[0], 0 bytes lmem
  call void @mosaic_gpu_build_kernel_spec(ptr %0, i32 1, i32 32, i32 16, i32 0, i32 0, i32 0, i32 384, i32 1, i32 1, \
i32 165976, i32 0, i32 1, ptr %684, ptr %686)
"""
COMPILED = {"seconds": 1.5, "num_kernels": 1, "temporary_bytes": 3 * 2**20}


def test_a_kernel_is_read_with_its_registers_shared_memory_and_launch():
    (kernel,) = ptxas.read(CLEAN)
    assert (kernel.name, kernel.target, kernel.registers) == ("entry", "sm_90a", 168)
    assert (kernel.static_smem, kernel.dynamic_smem, kernel.smem) == (1, 165976, 165977)
    assert (kernel.grid, kernel.threads) == ((1, 32, 16), 384)
    assert (kernel.stack, kernel.spill_stores, kernel.spill_loads, kernel.messages) == (0, 0, 0, [])


@pytest.mark.parametrize(
    ("text", "spilled", "smem", "codes"),
    [(SPILLED, (656, 1888, 1704), 1, ["C7512"]), (NVJITLINK, (1888, 7152, 6656), 165993, ["C7504", "C7511"])],
)
def test_spills_and_messages_are_read_from_ptxas_and_from_nvjitlink(text, spilled, smem, codes):
    (kernel,) = ptxas.read(text)
    assert (kernel.stack, kernel.spill_stores, kernel.spill_loads) == spilled
    assert (kernel.registers, kernel.smem) == (168, smem)
    assert [message.split(":")[0] for message in kernel.messages] == codes


def test_messages_belong_to_the_kernel_after_them_and_launches_to_the_one_before():
    first, second, third = ptxas.read(CLEAN + NVJITLINK + CLEAN.replace("'entry_", "'_last_"))
    assert [len(kernel.messages) for kernel in (first, second, third)] == [0, 2, 0]
    assert [kernel.dynamic_smem for kernel in (first, second, third)] == [165976] * 3
    assert third.name == "_last"


def test_other_text_holds_no_kernel():
    assert ptxas.read("I0000 launching\n@mosaic_gpu_launch_kernel(ptr %0, i32 1)\n0 bytes stack frame\n") == []


def test_a_clean_kernel_breaks_no_rule():
    assert rules.broken(COMPILED, ptxas.read(CLEAN)) == []


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        (SPILLED, ["C7512: wgmma.mma_async instructions are serialized", "spills 1888 bytes and loads 1704"]),
        (NVJITLINK, ["C7504: 'setmaxnreg' ignored", "C7511: wgmma", "spills 7152 bytes and loads 6656"]),
        (CLEAN.replace("i32 165976", "i32 232448"), ["232449 bytes of shared memory, more than 232448"]),
        (CLEAN.replace("'sm_90a'", "'sm_100a'"), ["compiled for sm_100a, not for sm_90a"]),
    ],
)
def test_a_broken_rule_is_told_with_the_kernel(text, problems):
    found = rules.broken(COMPILED, ptxas.read(text))
    assert len(found) == len(problems)
    for actual, expected in zip(found, problems, strict=True):
        assert actual.startswith(f"entry: {expected}")


def test_a_program_without_a_kernel_or_without_words_about_it_is_broken():
    assert rules.broken({**COMPILED, "num_kernels": 0}, []) == ["no kernel in the program: the reference was compiled"]
    assert rules.broken(COMPILED, []) == ["ptxas printed nothing about the kernels of the program"]


def test_what_a_compiler_objects_to_is_the_broken_rule():
    error = "JaxRuntimeError: RESOURCE_EXHAUSTED: Ran out of memory in memory space vmem"
    assert rules.broken({"error": error}, None) == [error]
    assert rules.broken(COMPILED, None) == []


def test_a_case_that_is_known_to_fall_back_breaks_no_rule():
    row = {"case": "h=64", "machine": "v6e:2x2", "fallback": "backend: got 'tpu' for an op, but ..."}
    row["broken"] = rules.broken(row, None)
    assert row["broken"] == []
    assert rules.table([row]).split()[-1] == "reference"


def test_the_table_has_a_line_for_each_kernel_and_names_what_is_broken():
    def row(case, kernels, **result):
        return {"case": case, "machine": "h200:1", **result, "kernels": [vars(kernel) for kernel in kernels]}

    rows = [
        {**row("two kernels", ptxas.read(CLEAN + SPILLED), **COMPILED), "broken": ["entry: spills"]},
        {"case": "refused", "machine": "v6e:2x2", "error": "no", "broken": ["no"]},
    ]
    head, first, second, refused, _, title, *broken = rules.table(rows).splitlines()
    assert head.split()[:4] == ["case", "machine", "s", "kernel"]
    assert " ".join(first.split()) == "two kernels h200:1 1.5 entry 168 0 162 384 3 BROKEN"
    assert " ".join(second.split()) == "two kernels h200:1 1.5 entry 168 1888 0 0 3 BROKEN"
    assert " ".join(refused.split()) == "refused v6e:2x2 - - - - - - - BROKEN"
    assert title == "Broken:"
    assert broken == ["two kernels on h200:1: entry: spills", "refused on v6e:2x2: no"]


def test_every_op_and_direction_has_a_case():
    started = {(name.split()[0], name.endswith(", gradient")) for name in CASES}
    ops = ("interval_attention", "diagonal_scan", "grouped_matmul")
    assert started == {*((op, gradient) for op in ops for gradient in (False, True)), ("decode_attention", False)}


def test_a_case_is_compiled_in_a_process_whose_words_are_read(monkeypatch):
    def run(command, env, **options):
        assert env["MOSAIC_GPU_DUMP_PTXAS"] == "1"
        assert env["JAX_PLATFORMS"] == "cpu"
        with open(command[4], "w") as file:
            json.dump({"h200:1": COMPILED}, file)
        return types.SimpleNamespace(stdout=CLEAN.encode() + b"\xff", stderr=b"")

    monkeypatch.setattr(subprocess, "run", run)
    (row,) = aot.rows_of("a case", "cuda")
    assert row["broken"] == []
    assert row["kernels"][0]["registers"] == 168


@pytest.mark.parametrize("end", ["killed", "late"])
def test_a_process_that_ends_without_a_result_breaks_every_machine_of_the_case(end, monkeypatch):
    def run(command, timeout, **options):
        if end == "late":
            raise subprocess.TimeoutExpired(command, timeout)
        return types.SimpleNamespace(stdout=b"", stderr=b"starting\nF0000 Check failed: vmem\n")

    monkeypatch.setattr(subprocess, "run", run)
    rows = list(aot.rows_of("a case", "tpu"))
    assert [row["machine"] for row in rows] == aot.MACHINES["tpu"]
    reason = {"killed": "F0000 Check failed: vmem", "late": "no result after 600 seconds"}[end]
    assert all(row["broken"] == [f"the compiler's process ended: {reason}"] for row in rows)
