"""How fast the input pipeline makes packed rows, and how long a training step waits for them.

    python -m benchmarks.data [--step_ms 400] [--out benchmarks/results/data.json]

Text (Shakespeare) and episode-like documents with PNG images, half the slots each. The step is a stand-in: matrix
products on all cores for so many milliseconds. Expect a wait share under 2 % with `--step_ms 400` on 2 cores.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import pathlib
import platform
import tempfile
import time

import numpy as np
from PIL import Image as PillowImage

from data.elements import Chunk, Document, Image, Tokens, Vector
from data.layout import RowShape
from data.pipeline import Pipeline
from data.records import TextFiles
from data.text import TextSource
from data.vocabulary import Vocabulary

CORPUS = pathlib.Path(__file__).parents[1] / "tests/assets/text/shakespeare.txt"
IMAGE_SLOTS, SIDE, ARM_WIDTHS, STEPS = 16, 64, (6, 7, 8), 8


class SyntheticEpisodes:
    """`count` examples of image, instruction, proprioception and action chunk; images are PNGs decoded when read."""

    def __init__(self, count: int, vocabulary_size: int, seed: int = 0):
        random = np.random.default_rng(seed)
        self._words = random.integers(6, 40, count)
        self._size, self._seed = vocabulary_size, seed
        self._pictures = [_png(random.integers(0, 255, (8, 8, 3), np.uint8)) for _ in range(64)]

    def __len__(self) -> int:
        return len(self._words)

    def costs(self) -> np.ndarray:
        slots_N = IMAGE_SLOTS + self._words + 1
        return np.stack([slots_N, np.ones_like(slots_N), np.ones_like(slots_N)], axis=1).astype(np.int32)

    def __getitem__(self, index: int) -> Document:
        random = np.random.default_rng((self._seed, index))
        arm = index % len(ARM_WIDTHS)
        width, words = ARM_WIDTHS[arm], int(self._words[index])
        pixels = np.asarray(PillowImage.open(io.BytesIO(self._pictures[index % len(self._pictures)])))
        return (
            Image(pixels, IMAGE_SLOTS),
            Tokens(random.integers(0, self._size, words).astype(np.int32), np.zeros(words, np.float32)),
            Vector(random.normal(size=width).astype(np.float32), arm),
            Chunk(random.normal(size=(STEPS, width)).astype(np.float32), np.ones((STEPS, width), bool), arm),
        )


def _png(coarse: np.ndarray) -> bytes:
    file = io.BytesIO()
    PillowImage.fromarray(coarse).resize((SIDE, SIDE), PillowImage.Resampling.BICUBIC).save(file, "PNG")
    return file.getvalue()


def measure(step_ms: float, batch_size: int, num_batches: int, cache_dir: str) -> dict[str, float]:
    vocabulary = Vocabulary.train(TextFiles((str(CORPUS),)).texts(), 1024)
    shape = RowShape(512, 16, (SIDE, SIDE), 16, STEPS, max(ARM_WIDTHS), image_id=8, vector_id=10)
    sources = {
        "text": TextSource(TextFiles((str(CORPUS),)), vocabulary, shape.slots, cache_dir),
        "episodes": SyntheticEpisodes(20_000, vocabulary.size),
    }
    pipeline = Pipeline(sources, {"text": 0.5, "episodes": 0.5}, shape, batch_size)
    began = time.perf_counter()
    batches = pipeline.iterator()
    next(batches)
    first = time.perf_counter() - began
    began = time.perf_counter()
    for _ in range(num_batches):
        next(batches)
    rows_per_second = num_batches * batch_size / (time.perf_counter() - began)
    waited, began = 0.0, time.perf_counter()
    matrix = np.ones((512, 512), np.float32)
    for _ in range(num_batches):
        before = time.perf_counter()
        next(batches)
        waited += time.perf_counter() - before
        while time.perf_counter() - before < step_ms / 1000:
            matrix @ matrix
    total = time.perf_counter() - began
    batches.close()
    return {
        "first_batch_seconds": first,
        "rows_per_second": rows_per_second,
        "slots_per_second": rows_per_second * shape.slots,
        "wait_share": waited / total,
        "packing_efficiency": pipeline.stream.efficiency(),
    }


def _machine() -> str:
    """Processor model and cores; Linux keeps the model where `platform` does not look."""
    info = pathlib.Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{next(iter(models), platform.processor() or platform.machine())}, {os.cpu_count()} cores"


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed of the input pipeline.")
    parser.add_argument("--step_ms", type=float, default=400)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--num_batches", type=int, default=30)
    parser.add_argument("--out", help="where to write the figures as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache_dir:
        figures = measure(options.step_ms, options.batch_size, options.num_batches, cache_dir)
    setting = {"step_ms": options.step_ms, "batch_size": options.batch_size, "machine": _machine()}
    result = json.dumps({**setting, "numpy": np.__version__, **figures}, indent=2)
    print(result)
    if options.out:
        pathlib.Path(options.out).write_text(result + "\n")


if __name__ == "__main__":
    main()
