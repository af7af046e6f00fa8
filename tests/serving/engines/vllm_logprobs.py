"""What vLLM computes from a folder of HF transformers; run by an interpreter that has it.

python vllm_logprobs.py FOLDER request.json answer.json

request: {"prompts": [token ids or text], "num_tokens": N}. Text is read and written by the folder's own tokenizer.
answer: {"version", "rows": [{"prompt_ids", "prompt_logprobs" (of every id but the first), "ids", "logprobs", "text"}]},
greedy and in float32.
"""

import json
import os
import sys


def main(folder: str, request: str, answer: str) -> None:
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    import vllm

    with open(request) as file:
        asked = json.load(file)
    with_text = any(isinstance(prompt, str) for prompt in asked["prompts"])
    engine = vllm.LLM(
        folder,
        dtype="float32",
        enforce_eager=True,
        max_num_seqs=4,
        enable_prefix_caching=False,
        skip_tokenizer_init=not with_text,
    )
    sampling = vllm.SamplingParams(
        temperature=0, max_tokens=asked["num_tokens"], prompt_logprobs=0, logprobs=0, detokenize=with_text
    )
    prompts = [p if isinstance(p, str) else {"prompt_token_ids": p} for p in asked["prompts"]]
    rows = [_row(result) for result in engine.generate(prompts, sampling, use_tqdm=False)]
    with open(answer, "w") as file:
        json.dump({"version": vllm.__version__, "rows": rows}, file)


def _row(result) -> dict:
    prompt, drawn = list(result.prompt_token_ids), result.outputs[0]
    ids = list(drawn.token_ids)
    return {
        "prompt_ids": prompt,
        "prompt_logprobs": [of[i].logprob for of, i in zip(result.prompt_logprobs[1:], prompt[1:], strict=True)],
        "ids": ids,
        "logprobs": [of[i].logprob for of, i in zip(drawn.logprobs, ids, strict=True)],
        "text": drawn.text,
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
