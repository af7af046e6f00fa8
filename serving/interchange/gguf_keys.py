"""The fields of a GGUF file that say what llama.cpp computes: its settings by model, and the vocabulary."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

from data.vocabulary import Vocabulary
from model.config import AttentionConfig, ModelConfig
from serving.interchange.pieces import Kind, Piece, tokenizer_of


def refuse(field: str, given: object, allowed: str) -> NoReturn:
    raise ValueError(f"{field} is {given!r}; llama.cpp computes such a model only with {allowed}. Use --to hf")


def add_model(writer: Any, config: ModelConfig, vocab_size: int, context: int) -> None:
    """Raises ValueError for a setting that llama.cpp does not read from the file."""
    _require_common(config)
    _MODELS[writer.arch](writer, config)
    assert config.dense is not None
    writer.add_context_length(context)
    writer.add_vocab_size(vocab_size)
    writer.add_block_count(config.num_layers)
    writer.add_embedding_length(config.model_dim)
    writer.add_feed_forward_length(config.dense.hidden_dim)
    writer.add_layer_norm_rms_eps(config.norm.epsilon)
    if config.final_softcap is not None:
        writer.add_final_logit_softcapping(config.final_softcap)


def _require_common(config: ModelConfig) -> None:
    if config.local_attention is None or config.global_attention is None:
        refuse("pattern", config.pattern, "local and global layers")
    for kind in ("local", "global"):
        softcap = config.attention(kind).softcap
        if softcap is not None:
            refuse(f"{kind}_attention.softcap", softcap, "None")


def _gemma3(writer: Any, config: ModelConfig) -> None:
    """llama.cpp, src/models/gemma3.cpp: the query scale and the positions of local layers are not in the file."""
    local, wide = config.attention("local"), config.attention("global")
    every = config.mixers.index("global") + 1 if "global" in config.mixers else 0
    if any((kind == "global") != (i % every == every - 1) for i, kind in enumerate(config.mixers)):
        refuse("pattern", config.pattern, "the same number of local layers before each global one")
    # Told by the number of layers, as the 27B alone scales by the width that heads would share the model's in.
    width = config.model_dim // wide.num_heads if config.num_layers == 62 else wide.head_dim
    for kind, section in (("local", local), ("global", wide)):
        if abs((section.query_scale or section.head_dim**-0.5) * width**0.5 - 1) > 1e-6:
            refuse(f"{kind}_attention.query_scale", section.query_scale, f"{width}^-0.5")
    if local.rope_scale != 1:
        refuse("local_attention.rope_scale", local.rope_scale, "1.0")
    _add_heads(writer, wide)
    writer.add_sliding_window_pattern(every)
    writer.add_head_count_kv(wide.num_kv_heads)
    _add_ropes(writer, local, wide)
    if wide.rope_scale != 1:
        import gguf

        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(wide.rope_scale)


def _gemma4(writer: Any, config: ModelConfig) -> None:
    """llama.cpp, src/models/gemma4.cpp."""
    local, wide = config.attention("local"), config.attention("global")
    for kind, section in (("local", local), ("global", wide)):
        if section.rope_scale != 1:
            refuse(f"{kind}_attention.rope_scale", section.rope_scale, "1.0")
    _add_heads(writer, wide)
    writer.add_key_length_swa(local.head_dim)
    writer.add_value_length_swa(local.head_dim)
    writer.add_head_count_kv([config.attention(kind).num_kv_heads for kind in config.mixers])
    writer.add_shared_kv_layers(0)
    writer.add_embedding_length_per_layer_input(0)
    writer.add_sliding_window_pattern([kind == "local" for kind in config.mixers])
    _add_ropes(writer, local, wide)
    writer.add_rope_dimension_count(wide.head_dim)
    writer.add_rope_dimension_count_swa(local.head_dim)
    if config.moe is not None:
        writer.add_expert_count(config.moe.num_experts)
        writer.add_expert_used_count(config.moe.top_k)
        writer.add_expert_feed_forward_length(config.moe.hidden_dim)


_MODELS: dict[str, Callable[[Any, ModelConfig], None]] = {"gemma3": _gemma3, "gemma4": _gemma4}


def _add_heads(writer: Any, wide: AttentionConfig) -> None:
    writer.add_head_count(wide.num_heads)
    writer.add_key_length(wide.head_dim)
    writer.add_value_length(wide.head_dim)


def _add_ropes(writer: Any, local: AttentionConfig, wide: AttentionConfig) -> None:
    writer.add_sliding_window(local.window)
    writer.add_rope_freq_base(wide.rope_base)
    writer.add_rope_freq_base_swa(local.rope_base)


def add_vocabulary(writer: Any, vocabulary: Vocabulary) -> None:
    """The SentencePiece model in llama.cpp's terms: `llama` is its byte-pair encoding, `t5` its unigram model.

    Raises:
        ValueError: a setting of the SentencePiece model that llama.cpp does not follow.
    """
    tokenizer = tokenizer_of(vocabulary)
    if tokenizer.algorithm == "bpe":
        # llama.cpp normalises no text before it merges pairs, and spells unknown characters in bytes always.
        for field, given, wanted in (
            ("normalization", bool(tokenizer.charsmap), False),
            ("remove_extra_whitespaces", tokenizer.removes_spaces, False),
            ("byte_fallback", tokenizer.byte_fallback, True),
        ):
            if given != wanted:
                refuse(f"the vocabulary's {field}", given, f"{wanted} in a byte-pair vocabulary")
    elif tokenizer.byte_fallback:
        refuse("the vocabulary's byte_fallback", True, "False in a unigram vocabulary")
    writer.add_tokenizer_model("llama" if tokenizer.algorithm == "bpe" else "t5")
    rows = range(len(tokenizer.pieces), vocabulary.size)  # that are no pieces
    pieces = [*tokenizer.pieces, *(Piece(f"<unused_{i}>", 0.0, Kind.UNUSED) for i in rows)]
    writer.add_token_list([piece.text.encode() for piece in pieces])
    writer.add_token_scores([piece.score for piece in pieces])
    writer.add_token_types([int(piece.kind) for piece in pieces])
    if tokenizer.charsmap:
        writer.add_precompiled_charsmap(tokenizer.charsmap)
    writer.add_remove_extra_whitespaces(tokenizer.removes_spaces)
    writer.add_add_space_prefix(tokenizer.adds_space)
    writer.add_bos_token_id(vocabulary.bos_id)
    writer.add_eos_token_id(vocabulary.eos_id)
    writer.add_unk_token_id(vocabulary.unk_id)
    if pieces[vocabulary.pad_id].kind == Kind.CONTROL:
        writer.add_pad_token_id(vocabulary.pad_id)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
