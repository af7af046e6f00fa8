"""From a phase with a `rollout` section to what the loop runs in place of a plain pipeline."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding

from data.batch import Batch, targets
from data.layout import collate, lay_out
from data.permutation import key_of
from data.problems import ArithmeticConfig, QuestionsConfig
from data.vocabulary import Vocabulary
from model.config import ModelConfig
from model.heads.tokens import blockwise
from model.model import create, join, split
from train.config import PhaseConfig, TrainConfig
from train.objectives import OBJECTIVES
from train.objectives.policy import text_log_softmax
from train.phases import Feed
from train.rollout.collect import Collector, Rewarder, batch_of
from train.rollout.prompts import PromptPipeline, Prompts
from train.rollout.sampler import Sampler
from train.rollout.samples import Row
from train.step import TrainState

Problems = (ArithmeticConfig, QuestionsConfig)  # kinds of sources that have prompts


def is_on_policy(objective: str) -> bool:
    return hasattr(OBJECTIVES[objective], "rows_of")


def check_rollout(where: str, phase: PhaseConfig, sources: Mapping[str, Any], options: Any, train: TrainConfig) -> None:
    """Raises ValueError, naming the field, where objective, rollout, rows and sources do not go together."""
    rollout, pipeline = phase.rollout, phase.pipeline
    if (rollout is not None) != is_on_policy(phase.objective):
        on_policy = ", ".join(name for name in OBJECTIVES if is_on_policy(name))
        raise ValueError(
            f"{where}.rollout is {'missing' if rollout is None else 'given'}, but objective {phase.objective!r} "
            f"{'learns' if rollout is None else 'does not learn'} from answers of its own; those that do: {on_policy}"
        )
    if rollout is None:
        return
    others = [name for name in phase.mixture if not isinstance(sources[name], Problems)]
    if others:
        raise ValueError(
            f"{where}.mixture has {others[0]!r} of kind {sources[others[0]].kind!r}, which has no problems to answer; "
            "allowed: kinds 'arithmetic' and 'questions'"
        )
    if pipeline.batch_size % rollout.samples:
        raise ValueError(
            f"{where}.pipeline.batch_size is {pipeline.batch_size}; it must be a multiple of rollout.samples "
            f"({rollout.samples}), the rows of a prompt"
        )
    if pipeline.slots != rollout.slots:
        raise ValueError(
            f"{where}.pipeline.slots is {pipeline.slots}; a row holds one prompt and its answer, so it must be "
            f"rollout.prompt_slots + rollout.num_tokens = {rollout.slots}"
        )
    if pipeline.images or pipeline.vectors:
        raise ValueError(f"{where}.pipeline has images or vectors, prompts are text; set both to 0")
    if phase.quantize is not None:
        raise ValueError(f"{where}.quantize is given, but answers are drawn from the weights as they are; remove it")
    draws = _within(where, lambda: OBJECTIVES[phase.objective].draws(rollout.samples, options))
    if (draws.anchor or draws.scored) and not phase.ema:
        raise ValueError(f"{where}.ema is 0, its objective compares with the moving average; set it, as to 0.99")
    updates, steps = getattr(options, "updates", 1), train.steps or phase.steps
    for field, value in (("train.checkpoint_every", train.checkpoint_every), (f"{where}: steps", steps)):
        if value % updates:
            raise ValueError(
                f"{field} is {value}; answers are drawn for options.updates = {updates} steps at once and no run goes "
                "on in between, so it must be a multiple of that"
            )
    if jax.process_count() > 1:
        raise ValueError(f"{where}.rollout draws answers in one process, this run has {jax.process_count()}; start one")


def rollouts_of(
    name: str,
    phase: PhaseConfig,
    loss_fn: Callable[..., Any],
    options: Any,
    constants: tuple[Any, ...],
    sources: Mapping[str, Any],
    held_out: Mapping[str, Any],
    vocabulary: Vocabulary,
    model: ModelConfig,
    place: Callable[[Batch], Batch],
    placement: Sharding,
    seed: int,
) -> Feed:
    """Prompts and what makes batches of them. loss_fn, options of the objective, constants: see `train.step.make_step`.

    sources and held_out: `ProblemSource` by name. placement: of arrays whose first dim counts rows; `place` does it.
    """
    rollout, module = phase.rollout, OBJECTIVES[phase.objective]
    assert rollout is not None
    seed = key_of(seed, name)  # so that two phases on the same problems see and draw others
    pipeline = PromptPipeline(
        sources,
        phase.mixture,
        seed,
        phase.pipeline.window,
        batch_size=phase.pipeline.batch_size,
        samples=rollout.samples,
        prompt_slots=rollout.prompt_slots,
    )
    sampler = Sampler(
        model, vocabulary, prompt_slots=rollout.prompt_slots, num_tokens=rollout.num_tokens, placement=placement
    )
    rewarder, shape = Rewarder(sampler, rollout.rewards, seed), phase.pipeline.row_shape(vocabulary)
    score = _score(model, vocabulary)
    collect = Collector(
        pipeline,
        rewarder,
        shape,
        draws=module.draws(rollout.samples, options),
        rows_of=lambda group: module.rows_of(group, options),
        score=lambda params, buffers, batch: score(params, buffers, place(batch)),
        updates=getattr(options, "updates", 1),
    )
    first = next(iter(sources.values()))
    example = collate([lay_out([first.prompt(0)], shape)] * phase.pipeline.batch_size)
    evaluate = _evaluation(held_out, rewarder, shape, loss_fn, constants, place, phase.pipeline.batch_size)
    return Feed(pipeline, example, evaluate, collect)


def _score(config: ModelConfig, vocabulary: Vocabulary) -> Callable[[Any, Any, Batch], jax.Array]:
    """Log-probability of each row's answer, float32[B], by the forward pass of training."""
    graph, text_size = split(jax.eval_shape(lambda: create(config, vocabulary.size, 0)))[0], vocabulary.text_size

    @jax.jit
    def score(params, buffers, batch: Batch):
        model = join(graph, params, buffers)
        target_BT, weight_BT = targets(batch)
        log_p = text_log_softmax(model, text_size)

        def logprob(hidden_ND, target_N):
            target_N1 = jnp.minimum(target_N, text_size - 1)[:, None]
            return jnp.take_along_axis(log_p(hidden_ND), target_N1, axis=-1)[:, 0]

        hidden_BTD = model(batch).hidden_BTD
        flat = blockwise(logprob, hidden_BTD.reshape(-1, hidden_BTD.shape[-1]), target_BT.reshape(-1))
        return jnp.sum(weight_BT * flat.reshape(target_BT.shape), axis=1)

    return score


def _evaluation(held_out, rewarder: Rewarder, shape, loss_fn, constants, place, size: int):
    """One answer to every held-out problem: reward, `kl` to the teacher, entropy and length, and the `greedy_reward` of
    the most likely answer. None where nothing is held out."""
    problems = [(source, i) for name, source in sorted(held_out.items()) for i in range(len(source))]
    if not problems:
        return None

    @jax.jit
    def measured(params, buffers, batch: Batch, constants) -> Mapping[str, Any]:
        _, aux = loss_fn(params, buffers, batch, jax.random.key(0), *constants)
        return {name: ratio for name, ratio in aux.metrics.items() if name.partition("/")[0] in _FIGURES}

    def evaluate(state: TrainState) -> dict[str, float]:
        params, sums = state.ema or state.params, {}
        for start in range(0, len(problems), size):
            chosen = problems[start : start + size]
            padded = chosen + chosen[-1:] * (size - len(chosen))  # so that one program serves the last ones too
            documents, asked = (tuple(x) for x in zip(*((s.prompt(i), s.problems[i]) for s, i in padded), strict=True))
            prompts = Prompts(start, documents, asked)
            drawn = rewarder(params, state.buffers, prompts, 1, "held out")
            rows = [[Row(sample, 0.0, of_policy=k < len(chosen))] for k, (sample,) in enumerate(drawn)]
            batch = place(batch_of(documents, rows, shape))
            found = dict(jax.device_get(measured(params, state.buffers, batch, constants)))
            greedy = rewarder(params, state.buffers, prompts, 1, "held out", temperature=0.0)[: len(chosen)]
            found["greedy_reward"] = sum(sample.reward for (sample,) in greedy), len(chosen)
            for name, ratio in found.items():
                sums[name] = sums.get(name, np.zeros(2)) + np.array(ratio)
        return {name: float(total / weight) for name, (total, weight) in sums.items() if weight}

    return evaluate


_FIGURES = {"reward", "kl", "entropy", "length", "ended"}


def _within(where: str, make: Callable[[], Any]) -> Any:
    try:
        return make()
    except ValueError as error:
        raise ValueError(f"{where}.{error}") from error
