"""The figures at the top of the page, each beside what it is to be compared with."""

from __future__ import annotations

from typing import Any

from eval.report.charts import short
from eval.report.load import Run
from eval.report.success import pooled
from eval.wilson import wilson_interval


def summary_cards(run: Run) -> str:
    s = run.summary
    cards = [success_card(s.get("success") or [])]
    ours, trigram = s.get("bits_per_byte"), s.get("bits_per_byte_trigram")
    cards.append(card("Held-out text", _number(ours, "{:.3f}"), "bits a byte", _versus(ours, trigram, "trigram model")))
    teacher, student = s.get("teacher_loss"), s.get("student_loss")
    cards.append(card("Student", _number(student, "{:.3f}"), "nats a token", _versus(student, teacher, "its teacher")))
    seconds = s.get("seconds")
    cards.append(card("Whole run", duration(seconds), "", f"{len(run.phases)} training phases" if run.phases else ""))
    mfu = f"{100 * s['mfu']:.1f} % of peak FLOP/s (MFU)" if s.get("mfu") is not None else ""
    speed = s.get("tokens_per_second")
    cards.append(card("Training speed", short(speed) if speed is not None else None, "tokens/s", mfu))
    memory = s.get("peak_memory_bytes")
    cards.append(card("Peak memory", f"{memory / 2**30:.2f}" if memory is not None else None, "GiB", ""))
    return "".join(cards)


def success_card(records: list[dict[str, Any]]) -> str:
    successes, episodes = pooled(records, "normal")
    if not episodes:
        return card("Tasks solved", None, "", "")
    low, high = wilson_interval(successes, episodes)
    note = f"{100 * low:.0f}–{100 * high:.0f} %, {episodes} episodes"
    wrong, of = pooled(records, "shuffled_instruction")
    if of:
        note += f"; {100 * wrong / of:.0f} % with wrong instructions"
    return card("Tasks solved", f"{100 * successes / episodes:.0f}", "%", note)


def card(label: str, value: str | None, unit: str, note: str) -> str:
    if value is None:
        return f'<div class="card"><p class="label">{label}</p><p class="value missing">not run</p></div>'
    number = f'<p class="value">{value} <span class="unit">{unit}</span></p>'
    return f'<div class="card"><p class="label">{label}</p>{number}<p class="note">{note}</p></div>'


def _number(value: float | None, form: str) -> str | None:
    return None if value is None else form.format(value)


def _versus(value: float | None, other: float | None, name: str) -> str:
    if value is None or not other:
        return ""
    change = 100 * (value - other) / other
    word = "below" if change < 0 else "above"
    return f"{abs(change):.1f} % {word} {name} ({other:.3f})"


def duration(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
