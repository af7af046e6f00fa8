"""Tokens per second of the text server with one stream and with many, over HTTP, the server in a process of its own.

    python -m benchmarks.serving [--checkpoint runs/demo/distil] [--streams 16]

A stream is a client that asks for one completion after another and reads it as it grows. The two settings take turns on
the same server; a third, one stream on a server of one row, says what rows that stand empty cost. Without a checkpoint
of the demo a model of its shape with random weights is served.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import pathlib
import socket
import statistics
import time
from typing import Any

import aiohttp

from benchmarks import machine

CORPUS = pathlib.Path(__file__).parents[1] / "tests/assets/text/shakespeare.txt"
BAR = 4.0  # times the tokens per second of one stream


def serve(checkpoint: str | None, port: int, rows: int) -> None:
    """The process of the server."""
    from aiohttp import web

    from serving.text.__main__ import server_of

    server = server_of(demo_model(checkpoint), "demo", rows=rows, max_slots=256)
    web.run_app(server.application(), host="127.0.0.1", port=port, handler_cancellation=True, print=None)


def demo_model(checkpoint: str | None) -> Any:
    """The checkpoint, or random weights in the shape of the demo's language model."""
    from configs.demo import get_config
    from configs.schema import parse
    from data.vocabulary import Vocabulary
    from model.config import ModelConfig
    from model.model import create, split
    from serving.model import LoadedModel
    from train.checkpoint import Checkpoint

    if checkpoint is not None:
        return LoadedModel.of(Checkpoint.open(checkpoint))
    config = parse(ModelConfig, get_config().models["student"].to_dict())
    vocabulary = Vocabulary.train([CORPUS.read_text()], 1024, num_codes=config.num_codes)
    return LoadedModel(config, vocabulary, {}, *split(create(config, vocabulary.size, 0)))


async def stream(session: aiohttp.ClientSession, prompt: str, tokens: int, seed: int) -> dict[str, float]:
    """One completion: tokens, seconds to the first text and to the end."""
    body = {"model": "demo", "prompt": prompt, "max_tokens": tokens, "seed": seed, "stream": True}
    began, first, usage = time.perf_counter(), None, None
    async with session.post("/v1/completions", json=body | {"stream_options": {"include_usage": True}}) as answer:
        answer.raise_for_status()
        async for line in answer.content:
            if line.startswith(b"data: {"):
                first = first or time.perf_counter()
                usage = json.loads(line[6:]).get("usage") or usage
            elif line.startswith(b"data: [DONE]"):
                assert usage is not None
                seconds = time.perf_counter() - began
                return {"tokens": usage["completion_tokens"], "first": (first or began) - began, "seconds": seconds}
    raise RuntimeError("the stream was cut off")


async def load(session: aiohttp.ClientSession, streams: int, each: int, tokens: int) -> dict[str, Any]:
    """`streams` clients with `each` completions one after another."""
    lines = [line for line in CORPUS.read_text().splitlines() if 20 < len(line) < 60]

    async def client(i: int) -> list[dict[str, float]]:
        return [await stream(session, lines[31 * i + 7 * j], tokens, 1000 * i + j) for j in range(each)]

    began = time.perf_counter()
    results = await asyncio.gather(*map(client, range(streams)), return_exceptions=True)
    seconds = time.perf_counter() - began
    found = [one for result in results if isinstance(result, list) for one in result]
    return {
        "tokens_per_second": sum(one["tokens"] for one in found) / seconds,
        "dropped": streams * each - len(found),
        "median_first_token_ms": 1e3 * statistics.median(one["first"] for one in found) if found else None,
        "slowest_first_token_ms": 1e3 * max(one["first"] for one in found) if found else None,
    }


async def measure(port: int, settings: dict[str, int], rounds: int, each: int, tokens: int) -> dict[str, list[Any]]:
    """Every setting (a number of streams by name) once a round, after one that is not counted."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}", connector=connector) as session:
        while True:
            try:
                async with session.get("/health") as answer:
                    if answer.status == 200:
                        break
            except aiohttp.ClientConnectionError:
                pass
            await asyncio.sleep(0.5)
        found: dict[str, list[Any]] = {name: [] for name in settings}
        for round_ in range(rounds + 1):
            for name, streams in settings.items():
                figures = await load(session, streams, each if streams > 1 else 2 * each, tokens)
                if round_:
                    found[name].append(figures)
        return found


def run(checkpoint: str | None, rows: int, settings: dict[str, int], options: argparse.Namespace) -> dict[str, Any]:
    """A server for as long as the measurement lasts; medians over rounds, drops added up."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(checkpoint, port, rows))
    process.start()
    try:
        found = asyncio.run(measure(port, settings, options.rounds, options.each, options.tokens))
    finally:
        process.terminate()
        process.join()
    middle = lambda turns, field: statistics.median(turn[field] for turn in turns)  # noqa: E731
    return {
        name: {field: middle(turns, field) for field in turns[0] if field != "dropped"}
        | {"dropped": sum(turn["dropped"] for turn in turns), "streams": settings[name], "rows": rows}
        for name, turns in found.items()
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--checkpoint", help="default: runs/demo/distil where there is one, else random weights")
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--each", type=int, default=4, help="completions of a client in a round")
    parser.add_argument("--tokens", type=int, default=128, help="of a completion, at most")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("benchmarks/results/serving.json"))
    options = parser.parse_args(arguments)
    demo = pathlib.Path("runs/demo/distil")
    checkpoint = options.checkpoint or (str(demo) if (demo / "done.json").exists() else None)
    results = run(checkpoint, options.streams, {"many": options.streams, "one": 1}, options)
    results |= run(checkpoint, 1, {"one, alone": 1}, options)
    many, one, alone = (results[name]["tokens_per_second"] for name in ("many", "one", "one, alone"))
    dropped = sum(result["dropped"] for result in results.values())
    record = {
        "model": checkpoint or "random weights in the shape of the demo's student",
        "tokens": options.tokens,
        "times_one_stream": many / one,
        "times_one_stream_alone": many / alone,
        "dropped": dropped,
        "results": results,
        "machine": machine.describe(("jax", "jaxlib", "aiohttp")),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(record, indent=1) + "\n")
    verdict = "met" if many / one >= BAR and not dropped else "missed"
    print(f"{options.streams} streams {many:.0f} tokens/s, one {one:.0f}: {many / one:.1f}x, {dropped} dropped")
    print(f"bar {BAR:g}x and none dropped: {verdict}; against one stream on one row ({alone:.0f}): {many / alone:.1f}x")


if __name__ == "__main__":
    main()
