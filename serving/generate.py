"""Text from a checkpoint: batches of prompts, streaming, stop strings and log-probabilities.

    python -m serving.generate runs/demo/distil "ROMEO:" --num_tokens 64 --temperature 0.7 --stop "\\n\\n"
    python -m serving.generate DIR "<start_of_image>What is this?" --image photo.jpg [--pan_and_scan]

A picture stands where the prompt has `<image>`, for an imported Gemma 3 `<start_of_image>`, or else before its text.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import sys
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp

from data.image_processing import PanAndScan, load_picture
from data.image_prompt import image_prompt
from model.startup import prepare_kernels
from serving.completion import Completion
from serving.decoder import Decoder
from serving.model import LoadedModel
from serving.prompts import Prompt, as_document
from serving.sampling import Draws, Sampling
from train.checkpoint import Checkpoint


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
    while True:
        state, drawn = decoder.decode(state, draws, min(block, num_tokens))
        drawn = jax.device_get(drawn)
        for b, completion in enumerate(completions):
            if completion.ended is None:
                completion.extend(drawn.row(b), decoder.vocabulary, num_tokens=num_tokens, stop=stop)
        yield completions
        done_B = jnp.array([completion.ended is not None for completion in completions])
        if bool(done_B.all()):
            return
        state = dataclasses.replace(state, done_B=state.done_B | done_B)


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
    parser.add_argument("--image", nargs="+", default=(), help="files of pictures that each prompt is about")
    parser.add_argument("--pan_and_scan", action="store_true", help="also crops of pictures that are far from square")
    options = parser.parse_args(arguments)
    prepare_kernels()
    try:
        rows = [
            Sampling(options.temperature, options.top_k, options.top_p, options.seed + i)
            for i in range(len(options.prompt))
        ]
        if options.pan_and_scan and not options.image:
            raise ValueError("--pan_and_scan is given without --image; name the pictures, or leave it out")
        loaded = LoadedModel.of(Checkpoint.open(options.checkpoint))
        pan_and_scan = PanAndScan() if options.pan_and_scan else None
        prompts = _with_pictures(options.prompt, options.image, loaded, pan_and_scan)
        growing = stream(Decoder(loaded), prompts, rows, num_tokens=options.num_tokens, stop=options.stop)
        _print_growing(options.prompt, growing)
    except ValueError as error:
        sys.exit(f"error: {error}")


def _with_pictures(
    texts: Sequence[str], files: Sequence[str], loaded: LoadedModel, pan_and_scan: PanAndScan | None
) -> Sequence[Prompt]:
    """Every text with the same pictures."""
    if not files:
        return texts
    if loaded.image_form is None:
        raise ValueError(f"--image is {' '.join(files)}, but this model sees no pictures; leave it out")
    pictures = [load_picture(file) for file in files]
    return [image_prompt(text, pictures, loaded.vocabulary, loaded.image_form, pan_and_scan) for text in texts]


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
