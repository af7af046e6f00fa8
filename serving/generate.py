"""Text from a checkpoint: batches of prompts, streaming, stop strings and log-probabilities.

python -m serving.generate runs/demo/distil "ROMEO:" --num_tokens 64 --temperature 0.7 --stop "\\n\\n"
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import sys
from collections.abc import Iterator, Sequence
from typing import Literal

import jax.numpy as jnp
import numpy as np

from data.elements import Document, Tokens
from data.vocabulary import Vocabulary
from model.startup import prepare_kernels
from serving.decoder import Decoder
from serving.model import LoadedModel
from serving.sampling import Draws, Sampling
from train.checkpoint import Checkpoint

Prompt = str | Document  # text, or elements such as images between tokens


@dataclasses.dataclass
class Completion:
    """What was written after one prompt.

    ids and logprobs: every drawn token, end-of-text included. ended: None while more may come.
    """

    text: str = ""
    ids: list[int] = dataclasses.field(default_factory=list)
    logprobs: list[float] = dataclasses.field(default_factory=list)
    ended: Literal["stop", "length"] | None = None


def generate(
    loaded: LoadedModel, prompts: Sequence[Prompt], *, num_tokens: int, temperature: float = 0.8, seed: int = 0
) -> list[str]:
    """The continuation of each prompt by up to `num_tokens` text tokens; prompt i draws with the seed `seed + i`."""
    rows = [Sampling(temperature=temperature, seed=seed + i) for i in range(len(prompts))]
    return [completion.text for completion in complete(Decoder(loaded), prompts, rows, num_tokens=num_tokens)]


def complete(
    decoder: Decoder, prompts: Sequence[Prompt], rows: Sequence[Sampling], *, num_tokens: int, stop: Sequence[str] = ()
) -> list[Completion]:
    """The finished completions of `stream`."""
    return collections.deque(stream(decoder, prompts, rows, num_tokens=num_tokens, stop=stop, block=32), 1).pop()


def stream(
    decoder: Decoder,
    prompts: Sequence[Prompt],
    rows: Sequence[Sampling],
    *,
    num_tokens: int,
    stop: Sequence[str] = (),
    block: int = 8,
) -> Iterator[list[Completion]]:
    """Yields the completions as they grow, every `block` tokens; text that was yielded is never taken back.

    A completion ends with end-of-text, before the first stop string, or after `num_tokens`.

    Raises:
        ValueError: num_tokens below 1, an empty stop string, or another number of rows than prompts.
    """
    if num_tokens < 1 or block < 1:
        raise ValueError(f"num_tokens is {num_tokens} and block {block}; allowed: 1 or more")
    if "" in stop:
        raise ValueError("stop holds an empty string, which would end every text at once; leave it out")
    if len(rows) != len(prompts):
        raise ValueError(f"rows holds {len(rows)} settings for {len(prompts)} prompts; give one for each")
    if not prompts:
        yield []
        return
    documents = [as_document(prompt, decoder.vocabulary) for prompt in prompts]
    state, draws = decoder.prefill(documents, num_tokens), Draws.of(rows)
    completions = [Completion() for _ in prompts]
    for drawn in range(0, num_tokens, block):
        steps = min(block, num_tokens - drawn)
        state, ids_BN, logprobs_BN = decoder.decode(state, draws, steps)
        for completion, ids_N, logprobs_N in zip(completions, np.asarray(ids_BN), np.asarray(logprobs_BN), strict=True):
            _extend(completion, ids_N, logprobs_N, decoder.vocabulary, stop, last=drawn + steps == num_tokens)
        yield completions
        done_B = jnp.array([completion.ended is not None for completion in completions])
        if bool(done_B.all()):
            return
        state = dataclasses.replace(state, done_B=state.done_B | done_B)


def as_document(prompt: Prompt, vocabulary: Vocabulary) -> Document:
    """Text becomes `<bos>` and its pieces."""
    if not isinstance(prompt, str):
        return prompt
    ids = np.array([vocabulary.bos_id, *vocabulary.encode(prompt)], np.int32)
    return (Tokens(ids, np.zeros(len(ids), np.float32)),)


def _extend(completion: Completion, ids_N, logprobs_N, vocabulary: Vocabulary, stop: Sequence[str], *, last: bool):
    """Take in newly drawn tokens up to where the completion ends."""
    if completion.ended is not None:
        return
    for token, logprob in zip(ids_N.tolist(), logprobs_N.tolist(), strict=True):
        completion.ids.append(token)
        completion.logprobs.append(logprob)
        if token == vocabulary.eos_id:
            completion.text, completion.ended = vocabulary.decode(completion.ids[:-1]), "stop"
            text_end = _first(completion.text, stop)
        elif stop:
            text_end = _first(vocabulary.decode(completion.ids), stop)
        else:
            continue
        if text_end is not None:
            completion.text, completion.ended = vocabulary.decode(completion.ids)[:text_end], "stop"
        if completion.ended is not None:
            return
    text = vocabulary.decode(completion.ids)
    completion.ended = "length" if last else None
    completion.text = text if last else text[: _settled(text, stop)]


def _first(text: str, stop: Sequence[str]) -> int | None:
    """Where the first stop string begins."""
    return min((at for at in (text.find(s) for s in stop) if at >= 0), default=None)


def _settled(text: str, stop: Sequence[str]) -> int:
    """Length of the text that no later token can change: half a character or half a stop string may stand after it."""
    end = len(text.rstrip("\N{REPLACEMENT CHARACTER}"))
    for s in stop:
        halves = [n for n in range(1, len(s)) if text[:end].endswith(s[:n])]
        end -= max(halves, default=0)
    return end


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m serving.generate", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkpoint", help="a folder <workdir>/<phase>, its checkpoints or one step in it")
    parser.add_argument("prompt", nargs="+", help="one or several texts, continued side by side")
    parser.add_argument("--num_tokens", type=int, default=128)
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--top_k", type=int, default=0)
    parser.add_argument("--top_p", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0, help="of the first prompt; the next ones count up")
    parser.add_argument("--stop", nargs="*", default=(), help="strings that end a text")
    options = parser.parse_args(arguments)
    prepare_kernels()
    try:
        rows = [
            Sampling(options.temperature, options.top_k, options.top_p, options.seed + i)
            for i in range(len(options.prompt))
        ]
        decoder = Decoder(LoadedModel.of(Checkpoint.open(options.checkpoint)))
        _print_growing(
            options.prompt, stream(decoder, options.prompt, rows, num_tokens=options.num_tokens, stop=options.stop)
        )
    except ValueError as error:
        sys.exit(f"error: {error}")


def _print_growing(prompts: Sequence[str], growing: Iterator[list[Completion]]) -> None:
    """One prompt is printed as it grows, several one after the other at the end."""
    completions, shown = [], 0
    for completions in growing:
        if len(prompts) == 1:
            print(prompts[0] * (not shown) + completions[0].text[shown:], end="", flush=True)
            shown = max(len(completions[0].text), 1)
    if len(prompts) > 1:
        print("\n---\n".join(p + c.text for p, c in zip(prompts, completions, strict=True)), end="")
    print()


if __name__ == "__main__":
    main()
