"""What HF transformers reads in a folder and computes with it; run as a script by an interpreter that has it.

python reference.py FOLDER question.npz answer.npz

The question holds `input_ids` [B,T] and, for a model that sees them, `pixel_values` [N,3,H,W] and `token_type_ids`
[B,T], 1 in the slots of pictures. The answer holds `logits` [B,T,V] and `hidden` [L,B,T,D] (what enters each layer),
both float32, and the names of tensors that were `missing` or that hold an `other` value than the file.
"""

import sys
from pathlib import Path

import numpy as np

# Modules that released checkpoints call otherwise than the library does.
RENAMED = {
    "language_model.model.": "model.language_model.",
    "vision_tower.vision_model.": "model.vision_tower.",
    "multi_modal_projector.": "model.multi_modal_projector.",
}


def main(folder: str, question: str, answer: str) -> None:
    import torch
    import transformers

    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch.float32,
        attn_implementation="eager",
        output_loading_info=True,
        trust_remote_code=(Path(folder) / "modeling_kinema.py").is_file(),  # our own, written with the folder
    )
    with np.load(question) as asked:
        inputs = {name: torch.from_numpy(asked[name]) for name in asked.files}
    ids = inputs["input_ids"] = inputs["input_ids"].long()
    if "token_type_ids" in inputs:
        inputs["input_ids"] = torch.where(inputs["token_type_ids"] == 1, model.config.image_token_id, ids)
    with torch.no_grad():
        out = model.eval()(**inputs, use_cache=False, output_hidden_states=True)
    missing = sorted(name for group in ("missing_keys", "mismatched_keys") for name in map(str, info[group]))
    np.savez(
        answer,
        logits=out.logits.numpy(),
        hidden=np.stack([x.numpy() for x in out.hidden_states[:-1]]),
        missing=np.array(missing, str),
        other=np.array(_other(model, Path(folder)), str),
    )


def _other(model, folder: Path) -> list[str]:
    """Tensors of the files that the model holds with another value."""
    from safetensors import safe_open

    held, found = model.state_dict(), []
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            for name in sorted(opened.keys()):
                own = name
                for written, read in RENAMED.items():
                    own = read + name.removeprefix(written) if name.startswith(written) else own
                if own in held and not held[own].equal(opened.get_tensor(name).float()):
                    found.append(name)
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
