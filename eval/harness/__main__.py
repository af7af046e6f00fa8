"""Runs tasks of lm-evaluation-harness on a checkpoint, offline; writes the figures and every item's answer.

    python -m eval.harness --checkpoint runs/demo/distil --tasks arc_easy,gsm8k --data DIR --out harness.json

The tasks in `eval/tasks` read files below --data; --include_path adds a folder of your own task files.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from data.whole import write_whole
from eval.language import CheckpointModel, LanguageModel
from model.startup import prepare_kernels
from serving.model import LoadedModel
from train.checkpoint import Checkpoint

TASKS = Path(__file__).parents[1] / "tasks"
DATA = "$DATA"  # stands for --data in the files of TASKS
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def evaluate(
    model: LanguageModel,
    tasks: Sequence[str],
    *,
    data: str | Path | None = None,
    include_path: str | Path | None = None,
    limit: int | None = None,
    shots: int | None = None,
) -> dict[str, Any]:
    """What `lm_eval.simple_evaluate` returns for local tasks; no network is asked.

    limit: items of each task. shots: examples before each question; default, what the task says.
    Raises ValueError where the harness is not installed, and for unknown tasks, naming those there are.
    """
    os.environ |= OFFLINE  # read when the harness is imported
    try:
        from lm_eval.evaluator import simple_evaluate
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise ValueError(f"{error}; install the extra `eval`: pip install 'kinema[eval]'") from None
    from eval.harness.adapter import HarnessModel

    with tempfile.TemporaryDirectory() as scratch:
        manager = TaskManager(include_path=_folders(data, include_path, Path(scratch)), include_defaults=False)
        unknown = [task for task in tasks if task not in manager.all_tasks]
        if unknown or not tasks:
            raise ValueError(f"--tasks names {', '.join(unknown) or 'none'}; known: {', '.join(manager.all_tasks)}")
        try:
            found = simple_evaluate(
                model=HarnessModel(model),
                tasks=list(tasks),
                task_manager=manager,
                limit=limit,
                num_fewshot=shots,
                bootstrap_iters=1000,
            )
        except FileNotFoundError as error:
            raise ValueError(f"a task's file is missing: {error}; check --data") from None
    assert found is not None  # only other ranks than the first get nothing
    return dict(found)


def _folders(data: str | Path | None, include_path: str | Path | None, scratch: Path) -> list[str | Path]:
    """Where task files are: ours, with the data's place written into them, and the user's own."""
    if include_path is not None and not Path(include_path).is_dir():
        raise ValueError(f"--include_path {include_path} is no folder; give one that holds task files (.yaml)")
    folders = [] if include_path is None else [include_path]
    if data is not None:
        for file in TASKS.glob("*.yaml"):
            (scratch / file.name).write_text(file.read_text().replace(DATA, str(Path(data).resolve())))
        folders.append(scratch)
    if not folders:
        raise ValueError("neither --data nor --include_path is given; give the folder that the tasks read from")
    return folders


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m eval.harness", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--checkpoint", required=True, help="a folder <workdir>/<phase>, its checkpoints or one step")
    parser.add_argument("--tasks", required=True, help="names of tasks, with commas between")
    parser.add_argument("--data", help=f"what {DATA} stands for in the files of eval/tasks")
    parser.add_argument("--include_path", help="a folder with more task files")
    parser.add_argument("--out", required=True, help="the JSON file to write; the items go beside it as .jsonl")
    parser.add_argument("--limit", type=int, help="items of each task; default: all")
    parser.add_argument("--shots", type=int, help="examples before each question; default: what the task says")
    parser.add_argument("--context", type=int, help="longest input in tokens; default: as the checkpoint was trained")
    parser.add_argument("--batch_tokens", type=int, default=8192, help="slots that are computed at once")
    options = parser.parse_args(arguments)
    prepare_kernels()
    try:
        checkpoint = Checkpoint.open(options.checkpoint)
        model = CheckpointModel(LoadedModel.of(checkpoint), context=options.context, batch_tokens=options.batch_tokens)
        found = evaluate(
            model,
            options.tasks.split(","),
            data=options.data,
            include_path=options.include_path,
            limit=options.limit,
            shots=options.shots,
        )
    except ValueError as error:
        sys.exit(f"error: {error}")
    _write(found, Path(options.out), checkpoint)


def _write(found: dict[str, Any], out: Path, checkpoint: Checkpoint) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    samples = [{"task": task, **item} for task, items in found["samples"].items() for item in items]
    lines = [json.dumps(item, default=str, ensure_ascii=False) for item in samples]
    write_whole(out.with_suffix(".jsonl"), "\n".join(lines) + "\n")
    summary = {
        "checkpoint": str(checkpoint.path),
        "step": checkpoint.step,
        "results": found["results"],
        "n-shot": found["n-shot"],
        "n-samples": found["n-samples"],
        "versions": {name: metadata.version(name) for name in ("lm_eval", "jax", "numpy")},
    }
    write_whole(out, json.dumps(summary, indent=1, default=str) + "\n")
    for task, figures in summary["results"].items():
        shown = {name: value for name, value in figures.items() if isinstance(value, float)}
        print(task, *(f"{name.removesuffix(',none')} {value:.4f}" for name, value in shown.items()))


if __name__ == "__main__":
    main()
