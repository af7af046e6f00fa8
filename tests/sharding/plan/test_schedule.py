"""A compiler is ended where it has written down what plans read; here a process that never ends stands in for it."""

from __future__ import annotations

import sys

import pytest

from sharding.plan.schedule import peak_bytes, schedule

REPORT = "Memory Space: default (color=0)\nTotal bytes: 7502595456 (6.99GiB)\n  cumulative_size;\n"
COMPILER = f"""
import os, pathlib, re, time
flags = os.environ["XLA_FLAGS"]
folder = pathlib.Path(re.search(r"--xla_dump_to=(\\S+)", flags)[1])
for part, text in {{
    "-memory-usage-report": {REPORT!r}, "": "the program", "_after_buffer_assignment": "more"
}}.items():
    (folder / f"module_0000.jit_step.cl_1.after_optimizations{{part}}.txt").write_text(text)
print(flags)
time.sleep(3600)
"""


def test_a_compiler_is_ended_once_its_schedule_is_written():
    found = schedule([sys.executable, "-c", COMPILER])
    assert (found.text, found.peak_bytes) == ("the program", 7502595456)
    assert found.cpu_seconds > 0


def test_what_a_compiler_says_before_it_fails_is_passed_on():
    failing = "print('on the way'); raise SystemExit('error: the step needs 120.5 GiB')"
    with pytest.raises(ValueError, match=r"^the step needs 120\.5 GiB$"):
        schedule([sys.executable, "-c", failing])
    with pytest.raises(ValueError, match="compiled nothing"):
        schedule([sys.executable, "-c", "pass"])


def test_a_report_of_another_form_is_shown():
    assert peak_bytes(REPORT) == 7502595456
    with pytest.raises(ValueError, match="unknown form: 'Memory: plenty'"):
        peak_bytes("Memory: plenty")
