"""Name tables that decoders of HF transformers share; ours are paths below one layer, theirs below `model.layers.i`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from model.config import Mixer, ModelConfig
from serving.interchange.tensors import LINEAR, LINEAR_FROM_HEADS, LINEAR_TO_HEADS, SAME, Entry, Layout

Row = tuple[str, str, Layout]  # ours, theirs, layout

ATTENTION: tuple[Row, ...] = (
    ("mixer/query", "self_attn.q_proj.weight", LINEAR_TO_HEADS),
    ("mixer/key", "self_attn.k_proj.weight", LINEAR_TO_HEADS),
    ("mixer/value", "self_attn.v_proj.weight", LINEAR_TO_HEADS),
    ("mixer/out", "self_attn.o_proj.weight", LINEAR_FROM_HEADS),
)
QK_NORM: tuple[Row, ...] = (
    ("mixer/query_norm/scale", "self_attn.q_norm.weight", SAME),
    ("mixer/key_norm/scale", "self_attn.k_norm.weight", SAME),
)
PRE_NORM: tuple[Row, ...] = (
    ("mixer_norm/scale", "input_layernorm.weight", SAME),
    ("ffn_norm/scale", "post_attention_layernorm.weight", SAME),
)
SANDWICH_NORM: tuple[Row, ...] = (
    ("mixer_norm/scale", "input_layernorm.weight", SAME),
    ("mixer_post_norm/scale", "post_attention_layernorm.weight", SAME),
    ("ffn_norm/scale", "pre_feedforward_layernorm.weight", SAME),
    ("ffn_post_norm/scale", "post_feedforward_layernorm.weight", SAME),
)
GATED: tuple[Row, ...] = (
    ("ffn/gate", "mlp.gate_proj.weight", LINEAR),
    ("ffn/up", "mlp.up_proj.weight", LINEAR),
    ("ffn/down", "mlp.down_proj.weight", LINEAR),
)


def decoder_entries(config: ModelConfig, rows: Iterable[Row]) -> Iterator[Entry]:
    """Embedding, every layer's rows, last norm and head; `config` has `scan=False`."""
    rows = tuple(rows)
    yield Entry("model.embed_tokens.weight", "tokens/table")
    for i in range(config.num_layers):
        for ours, theirs, layout in rows:
            yield Entry(f"model.layers.{i}.{theirs}", f"stack/remainder/{i}/{ours}", layout)
    yield Entry("model.norm.weight", "norm/scale")
    if not config.tied_head:
        yield Entry("lm_head.weight", "token_head/table")


def expert_entries(config: ModelConfig, module: str, gate: str, up: str, down: str) -> Iterator[Entry]:
    """Experts that are stored one by one; ours are stacked, gate and up side by side."""
    assert config.moe is not None
    F = config.moe.hidden_dim
    for i in range(config.num_layers):
        for e in range(config.moe.num_experts):
            theirs, ours = f"model.layers.{i}.{module}.experts.{e}", f"stack/remainder/{i}/ffn"
            yield Entry(f"{theirs}.{gate}.weight", f"{ours}/gate_up", LINEAR, (e, slice(None), slice(0, F)))
            yield Entry(f"{theirs}.{up}.weight", f"{ours}/gate_up", LINEAR, (e, slice(None), slice(F, 2 * F)))
            yield Entry(f"{theirs}.{down}.weight", f"{ours}/down", LINEAR, (e,))


def shortest_pattern(kinds: Sequence[Mixer]) -> tuple[Mixer, ...]:
    """The shortest tuple that gives `kinds` when repeated and cut, so that a stack can scan over its repeats."""
    fits = lambda n: all(kind == kinds[i % n] for i, kind in enumerate(kinds))  # noqa: E731
    return tuple(kinds[: next(n for n in range(1, len(kinds) + 1) if fits(n))])
