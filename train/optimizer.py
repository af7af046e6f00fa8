"""AdamW and Muon over named parameters, with schedules, groups, freezing and decay where it belongs."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers, scale_by_muon

from sharding.rules import Axes
from train.spread import Dims, scattered

STACKED = {"layers", "experts", "embodiment"}  # leading axes that count copies of a weight
HIDDEN = {
    "embed",
    "embed_out",
    "mlp",
    "heads",
    "kv_heads",
    "head_dim",
    "experts",
    "vision",
    "vision_in",
}  # between hidden units: Muon's matrices
TABLES = {"vocab", "patch", "patch_row", "patch_column", "chunk", None}  # first axis of a look-up table: never decayed
MUON_RMS = 0.2  # makes Muon's update as large as AdamW's, so both share one learning rate (arXiv 2502.16982, eq. 4)


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """One phase's optimiser. `warmup` and `decay` are shares of the phase's steps, so a shorter run keeps its shape."""

    kind: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = 3e-4  # peak
    schedule: Literal["constant", "linear", "cosine", "wsd"] = "cosine"
    warmup: float = 0.0  # share of steps with a linearly rising rate
    decay: float | None = None  # wsd only: share of steps with a linearly falling rate, at the end; 0.2 if not given
    final: float | None = None  # rate after the last step as a share of the peak; 0 if not given
    momentum: float | None = None  # muon only; 0.95 if not given
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.0  # decoupled, on matrices only
    clip_norm: float | None = 1.0  # largest global gradient norm; None = no clipping
    multipliers: tuple[tuple[str, float], ...] = ()  # (pattern of parameter names, factor of the learning rate)
    freeze: tuple[str, ...] = ()  # patterns of parameter names that never change

    def __post_init__(self):
        def check(field: str, good: bool, allowed: str) -> None:
            if not good:
                raise ValueError(f"{field} is {getattr(self, field)!r}; it must be {allowed}")

        check("kind", self.kind in ("adamw", "muon"), "'adamw' or 'muon'")
        schedules = ("constant", "linear", "cosine", "wsd")
        check("schedule", self.schedule in schedules, f"one of {schedules}")
        check("learning_rate", self.learning_rate > 0, "positive")
        check("warmup", 0 <= self.warmup < 1, "a share of the steps: 0 <= warmup < 1")
        check("b1", 0 <= self.b1 < 1, "in [0, 1)")
        check("b2", 0 <= self.b2 < 1, "in [0, 1)")
        check("eps", self.eps > 0, "positive")
        check("weight_decay", self.weight_decay >= 0, "0 or more")
        check("clip_norm", self.clip_norm is None or self.clip_norm > 0, "positive, or None for no clipping")
        check("multipliers", all(f > 0 for _, f in self.multipliers), "positive factors; use `freeze` instead of 0")
        if self.decay is not None:
            check("decay", self.schedule == "wsd", f"left out: schedule {self.schedule!r} has no stable stage")
            check("decay", 0 < self.decay <= 1 - self.warmup, "a share of the steps that warmup leaves over")
        if self.final is not None:
            check("final", self.schedule != "constant", "left out: schedule 'constant' does not fall")
            check("final", 0 <= self.final <= 1, "a share of the peak rate in [0, 1]")
        if self.momentum is not None:
            check("momentum", self.kind == "muon", f"left out: {self.kind!r} has no momentum; its own are b1 and b2")
            check("momentum", 0 <= self.momentum < 1, "in [0, 1)")


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """`update(clipped grads, state, params) -> (direction, state)`; the step subtracts schedule(step) * direction."""

    init: Callable[[Any], Any]
    update: Callable[..., tuple[Any, Any]]
    schedule: Callable[[Any], Any]
    factors: Any  # per parameter: factor of the learning rate, 0 = frozen
    scatter: Callable[[Any], tuple[Any, Any]]  # gradients to where their moments are, on a mesh, and their norm
    clip_norm: float | None
    dims: Dims

    def clipped(self, grads: Any, norm: Any) -> Any:
        """Gradients of this global norm, scaled down to `clip_norm` where it is larger."""
        if self.clip_norm is None:
            return grads
        scale = jnp.where(norm > self.clip_norm, self.clip_norm / norm, 1.0)
        return jax.tree.map(lambda g: g * scale.astype(g.dtype), grads)

    def stop_frozen(self, params: Any) -> Any:
        """Parameters with no gradient through the frozen ones, so that their backward pass is never computed."""
        return jax.tree.map(lambda p, factor: p if factor else jax.lax.stop_gradient(p), params, self.factors)


def parameter_names(tree: Any) -> Any:
    """The same tree with each leaf replaced by its name, path components joined by `/`."""
    return jax.tree_util.tree_map_with_path(lambda path, _: name_of(path), tree)


def name_of(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def build_schedule(config: OptimizerConfig, steps: int) -> Callable[[Any], Any]:
    """Learning rate of step s in 0 .. steps-1.

    W = warmup * steps. Warm-up: peak (s + 1) / W. After it, with u = (s - W) / (steps - W) and f = `final`:
    constant: peak; linear: peak (1 - (1 - f) u); cosine: peak (f + (1 - f) (1 + cos pi u) / 2);
    wsd (arXiv 2404.06395, section 4): peak, then linear from peak to f peak over the last decay * steps.
    """
    peak, final = config.learning_rate, config.final or 0.0
    warm = round(config.warmup * steps)
    rest = max(steps - warm, 1)
    if config.schedule == "constant":
        after = optax.constant_schedule(peak)
    elif config.schedule == "linear":
        after = optax.linear_schedule(peak, peak * final, rest)
    elif config.schedule == "cosine":
        after = optax.cosine_decay_schedule(peak, rest, alpha=final)
    else:
        falling = max(round((0.2 if config.decay is None else config.decay) * steps), 1)
        after = optax.linear_schedule(peak, peak * final, falling, transition_begin=rest - falling)
    return optax.join_schedules([lambda step: peak * (step + 1) / max(warm, 1), after], [warm])


def build_optimizer(config: OptimizerConfig, steps: int, params: Any, axes: Mapping[str, Axes]) -> Optimizer:
    """The optimiser of `params`; `axes` gives each parameter's logical axes by name.

    Raises ValueError for a pattern of `multipliers` or `freeze` without a parameter, and if nothing is left to train.
    """
    names = parameter_names(params)
    missing = sorted(set(jax.tree.leaves(names)) - set(axes))
    if missing:
        raise ValueError(f"no logical axes are known for the parameters {missing[:5]}")
    factors = _factors(config, names)
    decayed = jax.tree.map(lambda name, factor: factor > 0 and is_decayed(axes[name]), names, factors)
    kinds = jax.tree.map(lambda name, factor: _kind(config, axes[name], factor), names, factors)
    transforms = {
        "adamw": optax.scale_by_adam(config.b1, config.b2, config.eps),
        "muon": _muon(0.95 if config.momentum is None else config.momentum, axes),
        "frozen": optax.set_to_zero(),
    }
    used = set(jax.tree.leaves(kinds))
    chain = optax.chain(
        optax.identity(),  # keeps the state's structure, which checkpoints have: gradients come clipped
        optax.multi_transform({kind: transforms[kind] for kind in used}, kinds),
        optax.add_decayed_weights(config.weight_decay, mask=decayed),
        optax.stateless(lambda updates, _: jax.tree.map(jnp.multiply, updates, factors)),
    )
    # Muon needs its matrices whole; what is added elementwise can be cut anywhere.
    count = {"adamw": len, "muon": _num_stacked, "frozen": lambda _: 0}
    leaves = zip(jax.tree.leaves(names), jax.tree.leaves(kinds), strict=True)
    dims = {name: tuple(range(count[kind](axes[name]))) for name, kind in leaves}
    scatter = functools.partial(scattered, axes=axes, dims=dims)
    schedule = build_schedule(config, steps)
    return Optimizer(chain.init, chain.update, schedule, factors, scatter, config.clip_norm, dims)


def muon_dims(axes: Axes) -> MuonDimensionNumbers | None:
    """Input and output dims of a hidden matrix, the stacked dims left out; None where Muon does not apply."""
    stacked = _num_stacked(axes)
    groups: list[list[int]] = []
    for dim, axis in enumerate(axes[stacked:], stacked):
        if axis not in HIDDEN:
            return None
        if axis == "head_dim" and groups:
            groups[-1].append(dim)  # heads and head_dim together are one side of the matrix
        else:
            groups.append([dim])
    return MuonDimensionNumbers(tuple(groups[0]), tuple(groups[1])) if len(groups) == 2 else None


def is_decayed(axes: Axes) -> bool:
    """True for matrices that multiply activations: not for vectors, norms, look-up tables and state matrices."""
    features = [axis for axis in axes[_num_stacked(axes) :] if axis != "head_dim"]  # with heads it is one side
    return len(features) >= 2 and features[0] not in TABLES and "state" not in features


def _num_stacked(axes: Axes) -> int:
    return next((dim for dim, axis in enumerate(axes) if axis not in STACKED), len(axes))


def _kind(config: OptimizerConfig, axes: Axes, factor: float) -> str:
    if not factor:
        return "frozen"
    return "muon" if config.kind == "muon" and muon_dims(axes) else "adamw"


def _factors(config: OptimizerConfig, names: Any) -> Any:
    """Per parameter the factor of its first matching pattern: `freeze` before `multipliers`, else 1."""
    groups = [(pattern, 0.0) for pattern in config.freeze] + list(config.multipliers)
    unmatched = {pattern for pattern, _ in groups}

    def factor(name: str) -> float:
        for pattern, value in groups:
            if re.search(pattern, name):
                unmatched.discard(pattern)
                return value
        return 1.0

    factors = jax.tree.map(factor, names)
    if unmatched:
        raise ValueError(
            f"optimizer: no parameter matches {sorted(unmatched)}, or an earlier pattern takes all that do; correct or "
            f"remove it in `freeze` or `multipliers`; the names are {jax.tree.leaves(names)}"
        )
    if not any(jax.tree.leaves(factors)):
        raise ValueError(f"optimizer.freeze is {config.freeze!r}; it must leave at least one parameter to train")
    return factors


def _muon(momentum: float, axes: Mapping[str, Axes]) -> optax.GradientTransformation:
    """Muon on each matrix of a stack by itself, its update rescaled to AdamW's size (arXiv 2502.16982)."""

    def dims(tree: Any) -> Any:
        return jax.tree_util.tree_map_with_path(lambda path, _: muon_dims(axes[name_of(path)]), tree)

    def rescale(x: jax.Array, dim: Any) -> jax.Array:
        sides = [math.prod(x.shape[i] for i in side) for side in dim]
        return MUON_RMS * math.sqrt(max(sides)) * x

    return optax.chain(
        scale_by_muon(beta=momentum, weight_dimension_numbers=dims),
        optax.stateless(lambda updates, _: jax.tree.map(rescale, updates, dims(updates))),
    )
