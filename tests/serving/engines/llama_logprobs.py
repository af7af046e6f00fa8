"""What llama.cpp computes from a GGUF file; run by an interpreter that has llama-cpp-python.

python llama_logprobs.py FILE request.json answer.json

request: {"prompts": [token ids], "num_tokens": N, "texts": [text]}.
answer: {"version", "ids" (of each text, without <bos>), "rows": [{"prompt_ids", "prompt_logprobs" (of every id but the
first), "ids", "logprobs", "text"}]}, greedy, with keys and values in float32.
"""

import json
import sys

import numpy as np

F32 = 0  # ggml's number for the type


def main(file: str, request: str, answer: str) -> None:
    import llama_cpp

    with open(request) as opened:
        asked = json.load(opened)
    length = max([len(prompt) for prompt in asked["prompts"]], default=1) + asked.get("num_tokens", 0)
    model = llama_cpp.Llama(
        file, n_ctx=max(length, 64), logits_all=True, type_k=F32, type_v=F32, n_threads=2, verbose=False
    )
    ids = [model.tokenize(text.encode(), add_bos=False, special=False) for text in asked.get("texts", [])]
    rows = [_row(model, prompt, asked["num_tokens"]) for prompt in asked["prompts"]]
    with open(answer, "w") as opened:
        json.dump({"version": llama_cpp.__version__, "ids": ids, "rows": rows}, opened)


def _row(model, prompt: list, num_tokens: int) -> dict:
    model.reset()
    model.eval(prompt)
    ids = list(prompt)
    for _ in range(num_tokens):
        ids.append(int(model.scores[len(ids) - 1].argmax()))
        model.eval(ids[-1:])
    logits_TV = np.asarray(model.scores[: len(ids)], np.float64)
    top_T1 = logits_TV.max(-1, keepdims=True)
    logprobs_TV = logits_TV - top_T1 - np.log(np.exp(logits_TV - top_T1).sum(-1, keepdims=True))
    own, cut = [float(logprobs_TV[t, i]) for t, i in enumerate(ids[1:])], len(prompt) - 1
    drawn = ids[len(prompt) :]
    return {
        "prompt_ids": prompt,
        "prompt_logprobs": own[:cut],
        "ids": drawn,
        "logprobs": own[cut:],
        "text": model.detokenize(drawn).decode(errors="replace"),
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
