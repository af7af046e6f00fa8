"""Serve a checkpoint's text over HTTP in the manner of the OpenAI API.

    python -m serving.text runs/demo/distil --port 8000

POST /v1/completions and /v1/chat/completions, GET /v1/models, /health and /metrics. Compiles first: /health says
`loading` until then. SIGTERM lets those who are being served finish.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from aiohttp import web

from data.chat import ChatTemplate
from data.elements import Document, Image
from data.image_prompt import ImageForm
from model.startup import prepare_kernels
from serving.decoder import Decoder
from serving.model import LoadedModel
from serving.prompts import text_tokens
from serving.secret import read_secret
from serving.slots import Slots
from serving.text.calls import Reader
from serving.text.chat import ChatReader
from serving.text.server import Limits, TextServer
from serving.text.worker import Worker
from train.checkpoint import Checkpoint

MAX_CHOICES = 128


def server_of(
    loaded: LoadedModel,
    name: str,
    *,
    rows: int = 16,
    max_slots: int | None = None,
    max_waiting: int = 64,
    block: int = 8,
    piece: int = 256,
    turn: str | None = None,
    limits: Limits | None = None,
) -> TextServer:
    """A server of one model; see `python -m serving.text --help`.

    Raises ValueError for settings that cannot work.
    """
    if max_slots is None:
        max_slots = loaded.phase.get("pipeline", {}).get("slots")
    if max_slots is None:
        raise ValueError("the checkpoint does not say how long its rows were; give --max_slots")
    if max_waiting < 0:
        raise ValueError(f"max_waiting is {max_waiting}; allowed: 0 or more")
    form = loaded.image_form
    slots = Slots(Decoder(loaded, piece=piece), num_rows=rows, max_slots=max_slots, block=block)
    chat = ChatReader(ChatTemplate(loaded.vocabulary, form, loaded.turn if turn is None else turn))
    worker = Worker(slots, max_waiting=max_waiting, examples=_examples(loaded, form, max_slots))
    reader = Reader(name, slots, chat, max_choices=min(MAX_CHOICES, worker.capacity))
    return TextServer(worker, reader, limits or Limits())


def _examples(loaded: LoadedModel, form: ImageForm | None, max_slots: int) -> list[Document]:
    """A prompt with one image, where the model takes one and a row holds it."""
    if form is None or form.num_slots + 2 > max_slots:
        return []
    picture = Image(np.zeros((*form.size, 3), np.uint8), form.num_slots)
    return [(text_tokens([loaded.vocabulary.bos_id]), picture)]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m serving.text", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkpoint", help="a folder <workdir>/<phase>, its checkpoints or one step in it")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--name", help="of the model in requests; default: the name of the folder")
    parser.add_argument("--rows", type=int, default=16, help="completions that are written at once")
    parser.add_argument("--max_slots", type=int, help="of prompt and completion together; default: as trained")
    parser.add_argument("--max_waiting", type=int, default=64, help="completions that may wait for a row; more get 429")
    parser.add_argument("--block", type=int, default=8, help="tokens between two looks at who came and went")
    parser.add_argument("--piece", type=int, default=256, help="slots of a prompt that are read at once")
    parser.add_argument("--turn", help="pattern of a chat's turn; default: as trained, else '{role}: {content}\\n'")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds for a request, from beginning to end")
    parser.add_argument("--drain", type=float, default=30.0, help="seconds that SIGTERM leaves to those being served")
    parser.add_argument("--max_body_mb", type=float, default=20.0)
    parser.add_argument("--api_key_file", help="a file with the key that clients must send; default: none is needed")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    prepare_kernels()
    try:
        limits = Limits(
            options.timeout, int(options.max_body_mb * 1e6), read_secret(options.api_key_file, "--api_key_file")
        )
        loaded = LoadedModel.of(Checkpoint.open(options.checkpoint))
        server = server_of(
            loaded,
            options.name or Path(os.path.abspath(options.checkpoint)).name,
            turn=options.turn and options.turn.replace("\\n", "\n"),
            limits=limits,
            **{name: getattr(options, name) for name in ("rows", "max_slots", "max_waiting", "block", "piece")},
        )
        server.worker.on_failure = lambda: signal.raise_signal(signal.SIGTERM)
        web.run_app(
            server.application(),
            host=options.host,
            port=options.port,
            shutdown_timeout=options.drain,
            handler_cancellation=True,
            access_log=None,
        )
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    if server.worker.failure is not None:
        sys.exit(f"error: the model cannot be run: {server.worker.failure}")


if __name__ == "__main__":
    main()
