"""A progress bar with the time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import jax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

SHOWN = {
    "loss": "loss {:.4f}",
    "reward": "reward {:.3f}",
    "kl": "KL {:.3f}",
    "tokens_per_second": "{:,.0f} tok/s",
    "mfu": "MFU {:.1%}",
    "data_wait": "wait {:.0%}",
}


class PhaseProgress:
    """Shows how far a phase of `steps` steps is. Only process 0 shows anything."""

    def __init__(self, phase: str, start: int, steps: int, console: Console | None = None):
        self._console = console or Console(quiet=jax.process_index() != 0)
        self._phase, self._start, self._steps, self._began = phase, start, steps, time.monotonic()
        self._bar = None
        if self._console.is_terminal and not self._console.quiet:
            shown = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            left = (TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[text]}"))
            self._bar = Progress(*shown, *left, console=self._console)
            self._task = self._bar.add_task(phase, total=steps, completed=start, text="")
            self._bar.start()

    def advance(self, step: int) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=step)

    def report(self, step: int, values: Mapping[str, Any]) -> None:
        """Shows the figures of a window that ends after `step` steps."""
        text = "  ".join(form.format(values[name]) for name, form in SHOWN.items() if name in values)
        if self._bar is not None:
            self._bar.update(self._task, completed=step, text=text)
        else:
            left = (time.monotonic() - self._began) / max(step - self._start, 1) * (self._steps - step)
            self.note(f"{self._phase} {step}/{self._steps}  {text}  left {left:.0f} s")

    def note(self, text: str) -> None:
        """A line of its own, above the bar."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
