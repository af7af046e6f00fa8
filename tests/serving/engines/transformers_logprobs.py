"""What HF transformers computes from a folder; run by an interpreter that has it.

python transformers_logprobs.py FOLDER request.json answer.json

Request and answer are those of vllm_logprobs.py, with token ids as prompts.
"""

import json
import sys


def main(folder: str, request: str, answer: str) -> None:
    import torch
    import transformers

    with open(request) as file:
        asked = json.load(file)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    rows = []
    for prompt in asked["prompts"]:
        ids = list(prompt)
        with torch.no_grad():
            for _ in range(asked["num_tokens"]):
                ids.append(int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
            logprobs = model(torch.tensor([ids]), use_cache=False).logits[0].float().log_softmax(-1)
        own = [float(logprobs[t, i]) for t, i in enumerate(ids[1:])]
        cut = len(prompt) - 1
        rows.append(
            {"prompt_ids": prompt, "prompt_logprobs": own[:cut], "ids": ids[len(prompt) :], "logprobs": own[cut:]}
        )
    with open(answer, "w") as file:
        json.dump({"version": transformers.__version__, "rows": rows}, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
