"""The report of a run: one self-contained HTML page that needs no network, no scripts and no other file."""

from eval.report.load import Run, load_run
from eval.report.page import build_page, write_report

__all__ = ["Run", "build_page", "load_run", "write_report"]
