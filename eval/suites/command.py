"""`python -m eval --suite`: text evaluations of one checkpoint, or of every checkpoint that a training run saves.

    python -m eval --suite bits_per_byte,arc --checkpoint runs/demo/pretrain --data DIR --text FILE --out OUT
    python -m eval --suite gsm8k,bbh,ifeval --checkpoint runs/demo/pretrain --data DIR --limit 100 --out OUT
    python -m eval --suite needle,ruler,position --checkpoint runs/demo/pretrain --text BOOK --out OUT
    python -m eval --suite arc --watch runs/demo --data DIR --out OUT

OUT gets `<suite>.jsonl` with a line for each item, `summary.json`, and pictures. The same command run again goes on
where it was stopped. With --watch, OUT/<phase>/<step> gets them for each checkpoint that training keeps long enough
(`train.keep`).
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from eval.journal import keep_settings, write_json
from eval.language import CheckpointModel, LanguageModel
from eval.long import needle, position, ruler
from eval.suites import arc, bbh, gsm8k, ifeval, passages
from eval.suites.job import Suite, run
from eval.suites.watch import watch
from model.startup import prepare_kernels
from serving.model import LoadedModel
from train.checkpoint import Checkpoint


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the suites read of the command line; the fields are its options."""

    data: Path | None = None
    text: tuple[Path, ...] = ()
    limit: int | None = None
    shots: int = gsm8k.SHOTS
    answer_tokens: int | None = None
    lengths: tuple[int, ...] = ()
    samples: int = 4
    seed: int = 0

    def folder(self) -> Path:
        if self.data is None:
            raise ValueError("--data is not given; it is the folder that holds arc/, gsm8k/, bbh/ and ifeval/")
        return self.data

    def tokens(self, usual: int) -> int:
        return usual if self.answer_tokens is None else self.answer_tokens


SUITES: dict[str, Callable[[LanguageModel, Settings], Suite]] = {
    "bits_per_byte": lambda model, s: passages.suite(model, s.text, s.limit),
    "arc": lambda model, s: Suite("arc", _each(arc.items(s.folder()), s.limit)),
    "gsm8k": lambda model, s: Suite("gsm8k", gsm8k.items(s.folder(), s.shots, s.tokens(gsm8k.NUM_TOKENS))[: s.limit]),
    "bbh": lambda model, s: Suite("bbh", _each(bbh.items(s.folder(), s.tokens(bbh.NUM_TOKENS)), s.limit)),
    "ifeval": lambda model, s: Suite("ifeval", ifeval.items(s.folder(), s.tokens(ifeval.NUM_TOKENS))[: s.limit]),
    "needle": lambda model, s: needle.suite(model.vocabulary, s.text, s.lengths, s.samples, s.seed),
    "ruler": lambda model, s: ruler.suite(model.vocabulary, s.text, s.lengths, s.samples, s.seed, s.data),
    "position": lambda model, s: position.suite(model.vocabulary, s.text, s.lengths, s.samples),
}


def evaluate(names: Sequence[str], model: LanguageModel, settings: Settings, out: Path) -> dict[str, Any]:
    """The summary of each suite, by name; all suites are built before the first is run."""
    suites = [SUITES[name](model, settings) for name in names]
    summaries = {}
    for suite in suites:
        start = time.time()
        summaries[suite.name] = run(suite, model, out) | {"seconds": round(time.time() - start, 1)}
        print(suite.name, _short(summaries[suite.name]), flush=True)
    return summaries


def judge(checkpoint: Checkpoint, model: LanguageModel, names: Sequence[str], settings: Settings, out: Path) -> None:
    """Writes `out/summary.json`. Raises ValueError where `out` holds the answers of another model or settings."""
    said = dataclasses.asdict(settings) | {"suites": list(names), "context": model.context}
    identity = {"checkpoint": str(checkpoint.path), "step": checkpoint.step, "phase": checkpoint.phase}
    keep_settings(out, identity | said)
    write_json(out / "summary.json", identity | {"suites": evaluate(names, model, settings, out)})


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    prepare_kernels()
    try:
        names = options.suite.split(",")
        unknown = [name for name in names if name not in SUITES]
        if unknown:
            raise ValueError(f"--suite names {', '.join(unknown)}; choose of {', '.join(SUITES)}")
        if (options.checkpoint is None) == (options.watch is None):
            raise ValueError("give either --checkpoint or --watch, the working folder of a training run")
        settings = Settings(
            data=options.data,
            text=tuple(options.text),
            limit=options.limit,
            shots=options.shots,
            answer_tokens=options.answer_tokens,
            lengths=_lengths(options.lengths),
            samples=options.samples,
            seed=options.seed,
        )
        sizes = {"context": options.context, "batch_tokens": options.batch_tokens}
        if options.watch is None:
            checkpoint = Checkpoint.open(options.checkpoint)
            judge(checkpoint, CheckpointModel(LoadedModel.of(checkpoint), **sizes), names, settings, options.out)
        else:
            watch(
                options.watch,
                options.out,
                lambda checkpoint, model, out: judge(checkpoint, model, names, settings, out),
                sizes,
            )
    except ValueError as error:
        sys.exit(f"error: {error}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m eval", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--suite", required=True, help=f"one or several of {', '.join(SUITES)}, with commas between")
    parser.add_argument("--checkpoint", help="a folder <workdir>/<phase>, its checkpoints or one step in it")
    parser.add_argument("--watch", type=Path, help="the working folder of a run: every checkpoint that it saves")
    parser.add_argument("--out", type=Path, required=True, help="where results go")
    parser.add_argument("--data", type=Path, help="the folder that holds arc/, gsm8k/, bbh/, ifeval/, squad/")
    parser.add_argument("--text", type=Path, nargs="+", default=(), help="text files; books for the long suites")
    parser.add_argument("--limit", type=int, help="items of each suite (of each file of arc, bbh and text)")
    parser.add_argument("--shots", type=int, default=gsm8k.SHOTS, help="worked examples of gsm8k")
    parser.add_argument("--answer_tokens", type=int, help="longest answer; default: what each suite needs")
    parser.add_argument("--lengths", default="512,1024,2048,4096", help="of the long suites, in tokens")
    parser.add_argument("--samples", type=int, default=4, help="of the long suites at each length (and depth or task)")
    parser.add_argument("--seed", type=int, default=0, help="of the long suites")
    parser.add_argument("--context", type=int, help="tokens the model sees at once; default: as it was trained")
    parser.add_argument("--batch_tokens", type=int, default=8192, help="slots that are computed at once")
    return parser


def _lengths(text: str) -> tuple[int, ...]:
    try:
        lengths = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"--lengths is {text!r}; give numbers of tokens with commas between, as 512,1024") from None
    if any(length < 1 for length in lengths) or sorted(set(lengths)) != list(lengths):
        raise ValueError(f"--lengths is {text!r}; give numbers from 1 that rise")
    return lengths


def _each(items: list, limit: int | None) -> list:
    """The first `limit` items of each group."""
    seen: dict[str, int] = {}
    kept = []
    for item in items:
        seen[item.group] = seen.get(item.group, 0) + 1
        if limit is None or seen[item.group] <= limit:
            kept.append(item)
    return kept


def _short(summary: dict[str, Any]) -> str:
    """The figures at the top with their intervals, and those of groups where there are no others."""
    shown = {name: value for name, value in summary.items() if isinstance(value, float | int)}
    for group, figures in summary.get("groups", {}).items() if len(shown) <= 2 else ():
        shown |= {f"{group} {name}": value for name, value in figures.items() if isinstance(value, float)}
    texts = []
    for name, value in shown.items():
        low, high = summary.get(f"{name}_interval", (None, None))
        texts.append(f"{name} {value:.4g}" + (f" [{low:.3f}, {high:.3f}]" if low is not None else ""))
    return ", ".join(texts)
