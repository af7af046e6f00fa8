"""What HF transformers reads in a folder and computes with it; run as a script by an interpreter that has it.

python reference.py FOLDER tokens.npy answer.npz

The answer holds `logits` [B,T,V] and `hidden` [L,B,T,D] (what enters each layer), both float32, and the names of
tensors that were `missing` or that hold an `other` value than the file.
"""

import sys
from pathlib import Path

import numpy as np


def main(folder: str, tokens: str, answer: str) -> None:
    import torch
    import transformers

    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    ids = torch.from_numpy(np.load(tokens)).long()
    with torch.no_grad():
        out = model.eval()(input_ids=ids, use_cache=False, output_hidden_states=True)
    missing = sorted(name for group in ("missing_keys", "mismatched_keys") for name in map(str, info[group]))
    np.savez(
        answer,
        logits=out.logits.numpy(),
        hidden=np.stack([x.numpy() for x in out.hidden_states[:-1]]),
        missing=np.array(missing, str),
        other=np.array(_other(model, Path(folder)), str),
    )


def _other(model, folder: Path) -> list[str]:
    """Tensors of the files that the model holds under the same name with another value."""
    from safetensors import safe_open

    held, found = model.state_dict(), []
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            names = held.keys() & set(opened.keys())
            found += sorted(name for name in names if not held[name].equal(opened.get_tensor(name).float()))
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
