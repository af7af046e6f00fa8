"""Training steps of our model: AdamW, float32 parameters, bfloat16 activations, one jitted and donated step.

python -m benchmarks.step.ours MODEL REMAT SCALE TOKENS STEPS RECORD
"""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import pathlib
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.step.shapes import Shape, rows, shape
from model.heads.tokens import blockwise
from model.model import Model, create, join, next_buffers, split
from model.startup import prepare_kernels

REMAT = ("none", "dots", "block")  # with "auto" the first whose program fits is taken
LOSS_BLOCK = 4096  # positions whose float32 logits exist at once: 4.3 GB at a vocabulary of 262144
WARM_UP = 2
State = tuple[Any, Any, Any]  # params, optimiser state, buffers


def main(arguments: list[str]) -> None:
    name, remat, scale, tokens, steps, record = arguments
    logging.getLogger("pallas_kernels").setLevel(logging.INFO)
    logging.getLogger("pallas_kernels").addHandler(messages := _Messages())
    prepare_kernels()
    policies = REMAT if remat == "auto" else (remat,)
    found = run(shape(name, scale), policies, int(tokens), int(steps))  # type: ignore[arg-type]
    pathlib.Path(record).write_text(json.dumps(found | {"kernels": messages.texts}))


def run(shape: Shape, policies: tuple[str, ...], tokens: int, steps: int) -> dict[str, Any]:
    """Seconds of each step after the warm-up, the last loss, peak bytes, seconds of compilation, the remat taken."""
    optimizer = optax.adamw(1e-4)
    init = functools.partial(initial_state, shape, optimizer)
    began = time.perf_counter()
    remat, step = compiled_step(shape, policies, optimizer, jax.eval_shape(init), tokens)
    compile_seconds = time.perf_counter() - began
    random = np.random.default_rng(0)
    state, seconds, loss = init(), [], jnp.nan
    for _ in range(WARM_UP + steps):
        tokens_BT = jnp.asarray(random.integers(0, shape.vocab_size, (1, tokens)), jnp.int32)
        jax.block_until_ready((state, tokens_BT))
        began = time.perf_counter()
        state, loss = step(state, tokens_BT)
        jax.block_until_ready((state, loss))
        seconds.append(time.perf_counter() - began)
    stats = jax.devices()[0].memory_stats() or {}
    return {
        "status": "ok",
        "seconds": seconds[WARM_UP:],
        "loss": float(loss),
        "peak_bytes": stats.get("peak_bytes_in_use"),
        "compile_seconds": compile_seconds,
        "remat": remat,
        "versions": {"jax": jax.__version__, "device": jax.devices()[0].device_kind},
    }


def initial_state(shape: Shape, optimizer: optax.GradientTransformation) -> State:
    _, params, buffers = split(create(shape.config, shape.vocab_size, 0))
    return params, optimizer.init(params), buffers


def compiled_step(
    shape: Shape, policies: tuple[str, ...], optimizer: optax.GradientTransformation, state: Any, tokens: int
) -> tuple[str, Any]:
    """The first remat policy whose program fits into the device's memory, and that program."""
    limit = (jax.devices()[0].memory_stats() or {}).get("bytes_limit", float("inf"))
    needs: dict[str, float] = {}
    for remat in policies:
        config = dataclasses.replace(shape.config, remat=remat)
        step = jax.jit(train_step(config, shape.vocab_size, optimizer), donate_argnums=0)
        try:
            compiled = step.lower(state, jax.ShapeDtypeStruct((1, tokens), jnp.int32)).compile()
        except jax.errors.JaxRuntimeError as error:  # XLA itself may refuse what cannot fit
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            needs[remat] = float("inf")
            continue
        needs[remat] = bytes_of(compiled)
        if needs[remat] <= limit:
            return remat, compiled
    raise MemoryError(f"no remat policy fits into {limit / 1e9:.0f} GB; bytes needed: {needs}")


def bytes_of(compiled: Any) -> float:
    """Device memory that a compiled program needs: arguments, outputs that reuse none of them, and the rest."""
    memory = compiled.memory_analysis()
    kept = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return kept + memory.temp_size_in_bytes


def train_step(config: Any, vocab_size: int, optimizer: optax.GradientTransformation) -> Any:
    """The pure step `(state, tokens_BT) -> (state, loss)`."""
    graph, _, _ = split(jax.eval_shape(lambda: create(config, vocab_size, 0)))

    def loss_of(params, buffers, tokens_BT):
        model = join(graph, params, buffers)
        output = model(rows(tokens_BT.shape[1], tokens_BT))
        router = sum((stats.loss for stats in output.router), jnp.float32(0))
        return next_token_loss(model, output.hidden_BTD, tokens_BT) + router, output.router

    def step(state: State, tokens_BT: jax.Array) -> tuple[State, jax.Array]:
        params, opt_state, buffers = state
        (loss, router), gradients = jax.value_and_grad(loss_of, has_aux=True)(params, buffers, tokens_BT)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state, next_buffers(config, buffers, router)), loss

    return step


def next_token_loss(model: Model, hidden_BTD: jax.Array, tokens_BT: jax.Array) -> jax.Array:
    """Mean -log p of the next token; logits exist for one block of positions at a time."""
    unembed = model.unembedding()

    def nll(hidden_ND, target_N):
        logits_NV = unembed(hidden_ND)
        return jax.nn.logsumexp(logits_NV, axis=-1) - jnp.take_along_axis(logits_NV, target_N[:, None], axis=-1)[:, 0]

    # The last position predicts the first token: every block stays full, and the targets are random anyway.
    target_N = jnp.roll(tokens_BT, -1, axis=1).reshape(-1)
    return jnp.mean(blockwise(nll, hidden_BTD.reshape(-1, hidden_BTD.shape[-1]), target_N, block=LOSS_BLOCK))


class _Messages(logging.Handler):
    """What the operations say about the backend they took."""

    def __init__(self):
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


if __name__ == "__main__":
    main(sys.argv[1:])
