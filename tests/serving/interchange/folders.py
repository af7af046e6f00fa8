"""Model folders and checkpoints for the tests of imports and exports."""

import dataclasses
import hashlib
import io
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import sentencepiece

from data.batch import Batch
from data.vocabulary import Vocabulary
from model.config import AttentionConfig, DenseConfig, ModelConfig, SiglipConfig
from serving.interchange.tensor_files import Shape, create_tensors, open_tensors
from serving.model import LoadedModel
from tests.serving.random_text import unpadded
from train.checkpoint import Assets

REFERENCES = Path("tests/assets/transformers")
NAMES = ("gemma3_text", "gemma4_dense", "gemma4_moe", "mixtral", "qwen3_moe")
TEXT = Path("tests/assets/text/shakespeare.txt").read_text()[:30_000]


def foreign_tokenizer(size: int = 90, **settings) -> bytes:
    """A SentencePiece model with that library's own defaults: <unk> 0, <s> 1, </s> 2, no padding, a space before."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(TEXT.splitlines()),
        model_writer=model,
        vocab_size=size,
        minloglevel=2,
        **({"model_type": "bpe"} | settings),
    )
    return model.getvalue()


def model_folder(out: Path, name: str, *, max_shard_bytes: int = 1 << 40, change=None, tokenizer: bytes | None) -> Path:
    """The reference `name`, with its tensors, {name: array}, changed and divided anew."""
    out.mkdir()
    shutil.copyfile(REFERENCES / name / "config.json", out / "config.json")
    if tokenizer is not None:
        (out / "tokenizer.model").write_bytes(tokenizer)
    arrays = {tensor: stored.read() for tensor, stored in open_tensors(REFERENCES / name).items()}
    arrays = change(arrays) if change else arrays
    shapes = {tensor: Shape(array.shape, array.dtype) for tensor, array in arrays.items()}
    for tensor, stored in create_tensors(out, shapes, max_shard_bytes).items():
        stored.write(arrays[tensor])
    return out


def edit_config(folder: Path, **fields) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def logits_of(loaded: LoadedModel, ids: list[int]) -> np.ndarray:
    """float32[T,V] of the whole model at once."""

    @jax.jit
    def logits(params, buffers, batch):
        model = loaded.module(params, buffers)
        return model.token_logits(model(batch).hidden_BTD)[0]

    return np.asarray(logits(loaded.params, loaded.buffers, unpadded(ids)))


def trained(out: Path, config: ModelConfig, params, vocabulary: Vocabulary, buffers=None, ema=None) -> Path:
    """A finished checkpoint as a training phase leaves it, its arrays written by Orbax; gives its step's folder."""
    items = {"params": params, "buffers": buffers, "ema": ema}
    with ocp.CheckpointManager(out.resolve()) as manager:
        saved = {name: ocp.args.StandardSave(tree) for name, tree in items.items() if tree}
        manager.save(3, args=ocp.args.Composite(**saved), force=True)
    zeros = np.zeros((1, 1), np.int32)
    sections = {
        "seed": 0,
        "models": {"base": dataclasses.asdict(config)},
        "phases": {"pretrain": {"model": "base", "pipeline": {"batch_size": 2, "slots": 48}}},
    }
    example = Batch(zeros, zeros, zeros, zeros, zeros.astype("f4"), zeros, {}, {})
    files = Assets("pretrain", sections, vocabulary.serialized, {}, {}, example).files()
    sha = hashlib.sha256(vocabulary.serialized).hexdigest()
    meta = {"step": 3, "next_row": 6, "phase": "pretrain", "progress": {}, "tokenizer_sha256": sha, "versions": {}}
    (out / "3" / "files").mkdir()
    for name, content in (files | {"meta.json": json.dumps(meta).encode()}).items():
        (out / "3" / "files" / name).write_bytes(content)
    return out / "3"


def gemma(**changes) -> ModelConfig:
    """Five layers of a Gemma 3: a scan over two repeats and one layer after them."""
    attention = AttentionConfig(num_heads=2, num_kv_heads=1, head_dim=8)
    config = ModelConfig(
        model_dim=16,
        num_layers=5,
        pattern=("local", "global"),
        ffn=("dense",),
        local_attention=dataclasses.replace(attention, window=5),
        global_attention=dataclasses.replace(attention, rope_base=1e6),
        dense=DenseConfig(24),
        norms="sandwich",
    )
    return dataclasses.replace(config, **changes)


def seeing_gemma() -> ModelConfig:
    """One that makes four slots of a picture of 16 x 16."""
    encoder = {"encoder_dim": 12, "num_layers": 2, "hidden_dim": 20, "num_heads": 3}
    return gemma(image=SiglipConfig("siglip", 16, 16, patch_size=4, pool=2, **encoder))
