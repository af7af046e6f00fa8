"""Serve a checkpoint's actions to robots over a websocket, in openpi's protocol.

    python -m serving.policy runs/demo/specialise --port 8000

A robot connects to ws://HOST:PORT with openpi-client and sends images, state and prompt; the first frame it gets says
under which names. /healthz answers once programs are compiled, and a browser that opens / sees the robots at work.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from aiohttp import web

from model.startup import prepare_kernels
from serving.policy import Observation, Policy
from serving.robot.fields import PRESETS, Fields, Reader, own_fields
from serving.robot.server import Limits, PolicyServer
from serving.robot.wire import pack
from serving.robot.worker import Worker
from serving.secret import read_secret

_LOG = logging.getLogger(__name__)


def server_of(
    policy: Policy,
    *,
    preset: str | None = None,
    embodiment: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    limits: Limits | None = None,
) -> PolicyServer:
    """A server of one policy whose programs are compiled when this returns.

    preset: whose field names messages have (see `fields.PRESETS`); None: this project's own. embodiment: the robot of
    messages that name none; needed where the policy knows several. metadata: more for the first frame.

    Raises ValueError for settings that cannot work.
    """
    sources = policy.observer.rows.sources
    fields = {name: _fields(name, source.cameras, preset) for name, source in sources.items()}
    default = embodiment or (policy.embodiments[0] if len(policy.embodiments) == 1 else None)
    reader = Reader(fields, default)
    for name in sources:  # refuses what does not fit before anything is compiled
        policy.observer.prepare(example_of(policy, name))
    for size in policy.batch_sizes:
        policy.act([example_of(policy, next(iter(sources)))] * size)
    described = {name: _described(policy, name) | {"fields": dataclasses.asdict(fields[name])} for name in sources}
    metadata = {"embodiments": described, "default_embodiment": default, **(metadata or {})}
    pack(metadata)  # raises for what cannot be sent
    return PolicyServer(Worker(policy, policy.batch_size), reader, metadata, limits or Limits())


def example_of(policy: Policy, name: str) -> Observation:
    """An observation of nothing, of the sizes that this robot has."""
    source, robot = policy.observer.rows.sources[name], policy.observer.embodiments[name]
    pictures = tuple(np.zeros((*_image_size(policy), 3), np.uint8) for _ in source.cameras)
    running = np.zeros((1, robot.action_width), np.float32)
    goal = () if source.goal == "language" else pictures
    return Observation(pictures, "", np.zeros(robot.proprio_width, np.float32), name, goal, running)


def _described(policy: Policy, name: str) -> dict[str, Any]:
    """What a client needs to know of a robot."""
    robot, source = policy.observer.embodiments[name], policy.observer.rows.sources[name]
    return {
        "action_horizon": policy.observer.rows.shape.chunk,
        "action_width": robot.action_width,
        "state_width": robot.proprio_width,
        "image_size": None if source.resize else list(_image_size(policy)),
        "cameras": list(source.cameras),
    }


def _image_size(policy: Policy) -> tuple[int, ...]:
    """Height and width of pictures; () for a policy without cameras."""
    image = policy.model.config.image
    return (image.height, image.width) if image is not None else ()


def _fields(name: str, cameras: Sequence[str], preset: str | None) -> Fields:
    if preset is None:
        return own_fields(cameras)
    if preset not in PRESETS:
        raise ValueError(f"fields is {preset!r}; allowed: {', '.join(PRESETS)}")
    fields = PRESETS[preset]
    if len(cameras) > len(fields.images):
        raise ValueError(
            f"fields is {preset!r}, which has {len(fields.images)} cameras; {name} was trained with {len(cameras)}"
        )
    return dataclasses.replace(fields, images=fields.images[: len(cameras)])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m serving.policy", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkpoint", help="a folder <workdir>/<phase>, its checkpoints or one step in it")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets in other machines; then give a token")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--fields", choices=sorted(PRESETS), help="names of messages; default: images/..., state")
    parser.add_argument("--embodiment", help="the robot of messages that name none")
    parser.add_argument("--batch_size", type=int, default=32, help="most observations that are answered together")
    parser.add_argument("--max_clients", type=int, default=256)
    parser.add_argument("--max_frame_mb", type=float, default=64.0)
    parser.add_argument("--metadata", default="{}", help="JSON for the first frame, such as a reset pose")
    parser.add_argument("--seed", type=int, default=0, help="of the noise that flow matching starts from")
    parser.add_argument("--token_file", help="a file with the token that clients must send; default: none is needed")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    prepare_kernels()
    try:
        limits = Limits(
            options.max_clients, int(options.max_frame_mb * 1e6), read_secret(options.token_file, "--token_file")
        )
        metadata = _metadata(options.metadata)
        policy = Policy.load(options.checkpoint, batch_size=_sizes(options.batch_size), seed=options.seed)
        _LOG.info("compiling for batches of up to %d", options.batch_size)
        server = server_of(
            policy, preset=options.fields, embodiment=options.embodiment, metadata=metadata, limits=limits
        )
        _LOG.info("serving %s on ws://%s:%d", ", ".join(policy.embodiments), options.host, options.port)
        web.run_app(server.application(), host=options.host, port=options.port, access_log=None, print=lambda *_: None)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


def _sizes(most: int) -> list[int]:
    """1, 4, 16, ... up to `most`: a lone robot does not wait for what a full batch takes."""
    sizes = {most} | {4**i for i in range(16) if 4**i < most}
    return sorted(sizes)


def _metadata(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"--metadata is {text[:100]!r}, which is no JSON ({error}); give an object") from None
    if not isinstance(found, dict):
        raise ValueError(f"--metadata is {text[:100]!r}; give a JSON object")
    return found


if __name__ == "__main__":
    main()
