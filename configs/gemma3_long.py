"""Gemma 3 (arXiv 2503.19786) pre-trained on rows of 32k and 128k slots: the published sizes, laid over real machines.

    python -m sharding.plan --config configs/gemma3_long.py:4b_32k --topology v5p:4x4x4
    python -m train --config configs/gemma3_long.py:4b_32k --workdir runs/gemma3-4b-32k \\
        --config.vocabulary.path tokenizer.model --config.sources.text.paths 'corpus/*.jsonl'

Variants: 1b, 4b, 12b or 27b, with _32k or _128k; 27b_32k_slices is on two slices with a copy of the parameters each.
Expect 7 to 26 GiB of a v5p's 95 and, as a bound, 65 to 70 % of its FLOP/s for the model: docs/plans.md. Nothing was
trained with this file. As in the report, rows of 32k are for most of the pre-training and rows of 128k for its end,
with the positions of global layers divided by 8 (section 2).

The models see text alone, as the encoder of pictures is not trained on.
"""

from ml_collections import ConfigDict

from configs.gemma3 import SHAKESPEARE, SIZES, pretrain, text_model

SLOTS = {"32k": 32_768, "128k": 131_072}
VOCABULARY = 262_144  # pieces of the report's tokenizer, section 2.2

# Size and row -> rows of a step, and the mesh of its machine
LAYOUTS = {
    "1b_32k": (32, {"data": 1, "fsdp": 32, "context": 2}),  # v5p:4x4x4
    "4b_32k": (32, {"data": 1, "fsdp": 32, "context": 2}),  # v5p:4x4x4
    "12b_32k": (64, {"data": 1, "fsdp": 64, "context": 4}),  # v5p:4x8x8
    "27b_32k": (128, {"data": 1, "fsdp": 128, "context": 4}),  # v5p:8x8x8
    "1b_128k": (8, {"data": 1, "fsdp": 8, "context": 8}),  # v5p:4x4x4
    "4b_128k": (8, {"data": 1, "fsdp": 8, "context": 8}),  # v5p:4x4x4
    "12b_128k": (16, {"data": 1, "fsdp": 16, "context": 16}),  # v5p:4x8x8
    "27b_128k": (32, {"data": 1, "fsdp": 32, "context": 16}),  # v5p:8x8x8
    "27b_32k_slices": (256, {"data": 2, "fsdp": 128, "context": 4, "slices": {"data": 2}}),  # v5p:8x8x8@2
}


def get_config(variant: str = "1b_32k") -> ConfigDict:
    if variant not in LAYOUTS:
        raise ValueError(f"configs/gemma3_long.py has no variant {variant!r}; choose one of {', '.join(LAYOUTS)}")
    size, length = variant.split("_")[:2]
    rows, mesh = LAYOUTS[variant]
    config = ConfigDict({"seed": 0, "mesh": mesh})
    # A stand-in of the right size: a real run names its own tokenizer and text on the command line.
    config.vocabulary = {"path": "runs/gemma3/tokenizer.model", "paths": (SHAKESPEARE,), "size": VOCABULARY}
    config.sources = {"text": {"kind": "text", "paths": (SHAKESPEARE,), "holdout": 0.1}}
    config.models = {"gemma": text_model(size)}
    if SIZES[size][-1] < SLOTS[length]:  # positions as the larger sizes have them
        config.models.gemma.global_attention.rope_scale = 8.0
    config.train = {"phases": ("pretrain",)}
    config.phases = {"pretrain": pretrain(context=SLOTS[length])}
    config.phases.pretrain.pipeline = {"batch_size": rows, "slots": SLOTS[length]}
    return config
