"""The train step: gradient, guarded update, moving average; a pure function of (state, batch)."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec

from data.batch import PADDING_SEGMENT, Batch
from train.optimizer import Optimizer
from train.spread import moment_shardings

Mean = tuple[jax.Array, jax.Array]  # sum and weight of what is averaged
LossFn = Callable[..., tuple[jax.Array, "Aux"]]
Step = Callable[["TrainState", Batch], tuple["TrainState", dict[str, Mean]]]

NORM_DECAY = 0.98  # of the running mean of gradient norms that a spike is measured against
NORM_HISTORY = 20  # accepted steps before a spike can be called one


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Aux:
    """What a loss returns besides its total.

    weight: the denominator of the loss: total weight of its targets.
    metrics: scalars or vectors, or pairs (sum, weight) where a mean has a denominator of its own (a modality's loss).
    buffers: the updated non-gradient state.
    """

    weight: jax.Array
    metrics: dict[str, Any]
    buffers: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Guard:
    """Memory of the spike detector: running mean of accepted gradient norms, accepted and skipped steps."""

    norm: jax.Array
    accepted: jax.Array
    skipped: jax.Array
    skipped_in_a_row: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that a step reads and writes. `buffers`: state without gradient; `ema`: averaged parameters or None."""

    step: jax.Array
    params: Any
    buffers: Any
    opt_state: Any
    ema: Any
    guard: Guard

    @classmethod
    def create(cls, params: Any, buffers: Any, optimizer: Optimizer, *, ema: bool) -> TrainState:
        """A state at step 0. On a mesh the optimiser's part lies as `train.spread` says, and scalars are everywhere."""
        shardings = (leaf.sharding for leaf in jax.tree.leaves(params))
        mesh = next((sharding.mesh for sharding in shardings if isinstance(sharding, NamedSharding)), None)
        if mesh is None:
            return cls.zero(params, buffers, optimizer, ema=ema)
        moments = moment_shardings(jax.eval_shape(optimizer.init, params), params, optimizer.dims)
        spread = dataclasses.replace(optimizer, init=jax.jit(optimizer.init, out_shardings=moments))
        state = cls.zero(params, buffers, spread, ema=ema)
        everywhere = NamedSharding(mesh, PartitionSpec())
        return jax.tree.map(
            lambda x: x if isinstance(x.sharding, NamedSharding) else jax.device_put(x, everywhere), state
        )

    @classmethod
    def zero(cls, params: Any, buffers: Any, optimizer: Optimizer, *, ema: bool) -> TrainState:
        """The values of a state at step 0, also under a trace."""
        guard = Guard(jnp.float32(0), jnp.int32(0), jnp.int32(0), jnp.int32(0))
        average = jax.tree.map(jnp.copy, params) if ema else None
        return cls(jnp.int32(0), params, buffers, optimizer.init(params), average, guard)


def train_step(
    loss_fn: LossFn,
    optimizer: Optimizer,
    *,
    seed: int,
    accumulate: int = 1,
    ema: float = 0.0,
    spike_factor: float | None = None,
) -> Callable[[TrainState, Batch, tuple[Any, ...]], tuple[TrainState, dict[str, Mean]]]:
    """The pure step `(state, batch, constants) -> (state, metrics)`.

    loss_fn(params, buffers, batch, key, *constants) -> (total, Aux): a sum over targets, `Aux.weight` its denominator.
    accumulate: microbatches that a batch of B rows is cut into; B must be a multiple of it.
    ema: decay of the averaged parameters; 0 if the state has none.
    spike_factor: gradient norms above this times their running mean are skipped; None = only non-finite ones.

    Randomness depends on (seed, state.step) only. A skipped step changes nothing but the counters.
    """

    def step(state: TrainState, batch: Batch, constants: tuple[Any, ...]) -> tuple[TrainState, dict[str, Mean]]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        loss_of = lambda params, *rest: loss_fn(optimizer.stop_frozen(params), *rest, *constants)  # noqa: E731
        loss, grads, buffers, metrics = gradient(loss_of, state.params, state.buffers, batch, key, accumulate)
        grads, norm = optimizer.scatter(grads)
        accepted = is_acceptable(loss, norm, state.guard, spike_factor)

        learning_rate = optimizer.schedule(state.step)
        direction, opt_state = optimizer.update(optimizer.clipped(grads, norm), state.opt_state, state.params)
        params = jax.tree.map(lambda p, d: p - (learning_rate * d).astype(p.dtype), state.params, direction)
        average = optax.incremental_update(params, state.ema, 1 - ema) if ema else None

        new, old = (params, buffers, opt_state, average), (state.params, state.buffers, state.opt_state, state.ema)
        kept = jax.tree.map(lambda n, o: jnp.where(accepted, n, o), new, old)
        guard = _advance(state.guard, norm, accepted)
        tokens = jnp.sum(batch.segment_ids != PADDING_SEGMENT)
        metrics |= {"gradient_norm": (norm, 1), "learning_rate": (learning_rate, 1), "tokens": (tokens, 1)}
        metrics |= {"skipped": (guard.skipped, 1), "skipped_in_a_row": (guard.skipped_in_a_row, 1)}
        params, buffers, opt_state, average = kept
        return TrainState(state.step + 1, params, buffers, opt_state, average, guard), metrics

    return step


def make_step(loss_fn: LossFn, optimizer: Optimizer, *, constants: tuple[Any, ...] = (), **options: Any) -> Step:
    """The compiled step `(state, batch) -> (state, metrics)`; the state given to it is donated. See `train_step`.

    constants: arrays that the loss reads and nobody changes (a teacher's parameters), kept out of the program.
    """
    step = train_step(loss_fn, optimizer, **options)

    jitted = None

    def run(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Mean]]:
        nonlocal jitted
        jitted = jitted or jit_step(step, state)
        with step_mesh(state):
            return jitted(state, batch, constants)

    return run


def jit_step(step: Callable[..., Any], state: TrainState) -> Any:
    """`step` of `train_step`, compiled for where `state` lies, which is donated; trace it inside `step_mesh(state)`."""
    return jax.jit(step, donate_argnums=0, out_shardings=(_placement(state), None))


def step_mesh(state: TrainState) -> Any:
    """A context in which layers know the mesh that `state` lies on, if it lies on one."""
    placement = _placement(state)
    return jax.set_mesh(placement.step.mesh) if placement else contextlib.nullcontext()


def _placement(state: TrainState) -> Any:
    """The shardings of a state on a mesh, so that a step leaves every array where it was; else None."""
    shardings = jax.tree.map(lambda x: x.sharding, state)
    return shardings if isinstance(shardings.step, NamedSharding) else None


def gradient(loss_fn: LossFn, params: Any, buffers: Any, batch: Any, key: jax.Array, accumulate: int):
    """Loss, gradient, updated buffers and metric sums of the whole batch, `accumulate` microbatches at a time.

    Totals and weights are summed before the one division, so cutting a batch changes neither loss nor gradient. All
    microbatches see the same buffers; their updates are averaged.
    """

    def sums(micro, key):
        (total, aux), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, buffers, micro, key)
        metrics = {"loss": (total, aux.weight), **aux.metrics}
        means = {name: m if isinstance(m, tuple) else (m, jnp.float32(1)) for name, m in metrics.items()}
        return total, grads, aux.weight, aux.buffers, means

    if accumulate == 1:
        total, grads, weight, buffers, metrics = sums(batch, key)
    else:
        inputs = _microbatches(batch, accumulate), jax.random.split(key, accumulate)
        shapes = jax.eval_shape(sums, *jax.tree.map(lambda x: x[0], inputs))
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        add = lambda so_far, xs: (jax.tree.map(jnp.add, so_far, sums(*xs)), None)  # noqa: E731
        (total, grads, weight, buffers, metrics), _ = jax.lax.scan(add, zeros, inputs)
        buffers = jax.tree.map(lambda x: x / accumulate, buffers)
    weight = jnp.maximum(weight, jnp.finfo(jnp.float32).tiny)  # a batch without targets has loss 0
    return total / weight, jax.tree.map(lambda g: g / weight, grads), buffers, metrics


def is_acceptable(loss: jax.Array, norm: jax.Array, guard: Guard, spike_factor: float | None) -> jax.Array:
    """True if loss and gradient are finite and the gradient norm is no spike."""
    finite = jnp.isfinite(loss) & jnp.isfinite(norm)
    if spike_factor is None:
        return finite
    return finite & ((guard.accepted < NORM_HISTORY) | (norm <= spike_factor * guard.norm))


def _advance(guard: Guard, norm: jax.Array, accepted: jax.Array) -> Guard:
    decay = jnp.minimum(NORM_DECAY, guard.accepted / (guard.accepted + 1))  # a plain mean at first
    one = accepted.astype(jnp.int32)
    return Guard(
        norm=jnp.where(accepted, decay * guard.norm + (1 - decay) * norm, guard.norm),
        accepted=guard.accepted + one,
        skipped=guard.skipped + 1 - one,
        skipped_in_a_row=(guard.skipped_in_a_row + 1) * (1 - one),
    )


def _microbatches(batch: Any, count: int) -> Any:
    """[B, ...] -> [count, B / count, ...]; strided, so that rows stay on the device that holds them."""

    def cut(x: jax.Array) -> jax.Array:
        if x.shape[0] % count:
            raise ValueError(f"accumulate is {count}; the batch of {x.shape[0]} rows must be a multiple of it")
        return x.reshape(x.shape[0] // count, count, *x.shape[1:]).swapaxes(0, 1)

    return jax.tree.map(cut, batch)
