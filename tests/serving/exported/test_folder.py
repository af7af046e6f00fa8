"""A folder of functions: run in another process by its own loader, and refused where it is not what the model is."""

import dataclasses
import hashlib
import json
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax import export

from data.elements import Image, Tokens
from data.vocabulary import Vocabulary
from model.config import BinsHeadConfig, ImageConfig, MoEConfig, RecurrentConfig, RobotConfig
from model.quantization import Quantization
from serving import export as exporting
from serving.decoder import Decoder
from serving.export import export_stablehlo, main
from serving.exported.folder import read_model
from serving.exported.weights import stored_tensors
from serving.generate import complete
from serving.interchange.gate import ExportError
from serving.model import LoadedModel
from serving.sampling import Sampling
from tests.model.weights import random_states
from tests.serving.interchange.folders import TEXT, gemma, logits_of, trained
from train.checkpoint import Checkpoint

pytestmark = pytest.mark.usefixtures("quick_compilation")
HYBRID = {
    "num_layers": 4,
    "pattern": ("local", "recurrent", "global"),
    "ffn": ("dense", "moe", "dense_moe"),
    "moe": MoEConfig(4, 2, 8, bias_rate=0.01, shared_dim=8),
    "recurrent": RecurrentConfig(num_states=4),
}


@pytest.fixture(scope="module")
def vocabulary():
    return Vocabulary.train([TEXT], 384, num_codes=8)


@pytest.fixture(scope="module")
def checkpoint(vocabulary, tmp_path_factory):
    """Every mixer and every feed-forward, and pictures."""
    config = gemma(**HYBRID, num_codes=8, image=ImageConfig(8, 8, 4, stem_dim=4))
    _, params, buffers = random_states(config, vocabulary.size, seed=1, std=0.3)
    return Checkpoint.open(trained(tmp_path_factory.mktemp("run") / "pretrain", config, params, vocabulary, buffers))


@pytest.fixture(scope="module")
def folder(checkpoint, tmp_path_factory):
    out = tmp_path_factory.mktemp("exported") / "out"
    export_stablehlo(checkpoint, out, max_shard_bytes=30_000)
    return out


def prompt(vocabulary, length, seed):
    ids = np.random.default_rng(seed).integers(300, 384, length - 1)
    return np.array([vocabulary.bos_id, *ids], np.int32)


LOADED = """
import sys
sys.path.insert(0, sys.argv[1])
import json, load
prompts, np = json.loads(sys.argv[2]), load.np
tokens, weights, prefill = np.array([prompts[1]] * 2, "i4"), load.weights(), load.function("prefill")
inputs = load.empty("prefill", "inputs", {"b": 2, "t": tokens.shape[1], "m": 1})
inputs |= {"tokens": tokens, "length": np.full(2, tokens.shape[1], "i4")}
logits, cache = prefill(weights, load.empty_cache(2, 150), inputs)
np.savez(sys.argv[3], logits=logits, greedy=load.greedy(prompts, 12))
print([name for name in sys.modules if name.split(".")[0] in ("model", "serving", "flax", "data", "orbax")])
"""


def test_the_loader_alone_gives_our_logits_and_our_greedy_tokens(folder, checkpoint, vocabulary, tmp_path):
    """In a process that imports nothing of ours; 7 tokens, and 140, which are more than a tile and many windows."""
    prompts = [prompt(vocabulary, length, 5).tolist() for length in (7, 140)]
    command = [sys.executable, "-c", LOADED, str(folder), json.dumps(prompts), str(tmp_path / "answer.npz")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == "[]"
    loaded = LoadedModel.of(checkpoint)
    documents = [(Tokens(np.array(ids, np.int32), np.zeros(len(ids), np.float32)),) for ids in prompts]
    ours = complete(Decoder(loaded), documents, [Sampling(temperature=0)] * 2, num_tokens=12)
    with np.load(tmp_path / "answer.npz") as answer:
        wanted = logits_of(loaded, prompts[1])[-1]
        np.testing.assert_allclose(answer["logits"], [wanted, wanted], atol=1e-4, rtol=1e-5)
        for row, completion in zip(answer["greedy"], ours, strict=True):
            assert row[: len(completion.ids)].tolist() == completion.ids
    assert len({token for completion in ours for token in completion.ids}) > 4


def called(folder, name, *arguments):
    return jax.jit(export.deserialize(bytearray((folder / f"{name}.jax_export").read_bytes())).call)(*arguments)


def weights_of(folder):
    return {name: tensor.read() for name, tensor in stored_tensors(folder).items()}


def test_a_picture_in_the_prompt_is_seen_as_we_see_it(folder, checkpoint, vocabulary):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
    ids = prompt(vocabulary, 3, 0)
    text = lambda ids: Tokens(np.array(ids, np.int32), np.zeros(len(ids), np.float32))  # noqa: E731
    document = (text(ids[:1]), Image(pixels, 4), text(ids[1:]))
    decoder = Decoder(LoadedModel.of(checkpoint))
    rows = decoder.prefill([document], 4)
    loaded = decoder.loaded
    wanted = loaded.module(loaded.params, loaded.buffers).token_logits(rows.hidden_BD)
    tokens = np.array([[ids[0], *[vocabulary.piece_id("<image>")] * 4, *ids[1:]]], np.int32)
    inputs = {"tokens": tokens, "length": np.array([7], np.int32)}
    inputs |= {"image": pixels[None, None], "image_slot": np.array([[1]], np.int32)}
    inputs |= {"span": np.array([[0, 1, 1, 1, 1, 0, 0]], np.int32)}
    shapes = json.loads((folder / "manifest.json").read_text())["functions"]["prefill"]["arguments"]["cache"]
    sizes: dict = {"b": 1, "128*s": 128}
    cache = {name: np.zeros([sizes.get(d, d) for d in a["shape"]], a["dtype"]) for name, a in shapes.items()}
    found, _ = called(folder, "prefill", weights_of(folder), cache, inputs)
    np.testing.assert_allclose(found, wanted, atol=1e-4, rtol=1e-5)
    other, _ = called(folder, "prefill", weights_of(folder), cache, inputs | {"image": 255 - inputs["image"]})
    assert np.abs(other - found).max() > 1e-2


def test_the_manifest_says_what_the_functions_take_and_where_they_run(folder, vocabulary):
    manifest = json.loads((folder / "manifest.json").read_text())
    tokens = manifest["functions"]["prefill"]["arguments"]["inputs"]["tokens"]
    assert tokens == {"shape": ["b", "t"], "dtype": "int32"}
    keys = [a["shape"] for name, a in manifest["functions"]["decode"]["arguments"]["cache"].items() if "k_BSKh" in name]
    assert keys == [["b", 5, 1, 8], ["b", "128*s", 1, 8], ["b", 5, 1, 8]]
    for name in ("prefill", "decode"):
        blob = bytearray((folder / f"{name}.jax_export").read_bytes())
        assert export.deserialize(blob).platforms == ("cpu", "cuda", "tpu")
        assert len(blob) < sum(tensor.shape.num_bytes for tensor in stored_tensors(folder).values()) * 3
    assert manifest["tokenizer"]["sha256"] == hashlib.sha256((folder / "tokenizer.model").read_bytes()).hexdigest()
    assert manifest["tokenizer"]["text_size"] == vocabulary.text_size == 384
    assert manifest["versions"]["jax"] == jax.__version__
    assert len(list(folder.glob("*.safetensors"))) > 1


def test_the_folder_is_a_model_again(folder, checkpoint, vocabulary, tmp_path):
    again, ids = read_model(folder), prompt(vocabulary, 12, 0).tolist()
    np.testing.assert_array_equal(logits_of(again, ids), logits_of(LoadedModel.of(checkpoint).layer_by_layer(), ids))
    assert again.vocabulary.hash == vocabulary.hash
    copied = shutil.copytree(folder, tmp_path / "copy")
    (copied / "tokenizer.model").write_bytes(b"another")
    with pytest.raises(ValueError, match=r"tokenizer.model is not the tokenizer of manifest.json"):
        read_model(copied)
    with pytest.raises(ValueError, match=r"holds no manifest.json; give a folder that `serving.export --to stablehlo`"):
        read_model(tmp_path)


def test_a_quantised_model_runs_the_same_way_in_a_quarter_of_the_bytes(checkpoint, folder, vocabulary, tmp_path):
    """The gate compares the functions, which hold few bits, with the model of the same weights in float32."""
    weights, apart = export_stablehlo(checkpoint, tmp_path / "out", form=Quantization("int4", 32))
    assert apart < 1e-4
    stored = stored_tensors(tmp_path / "out")
    assert weights.num_bytes == sum(tensor.shape.num_bytes for tensor in stored.values())
    query = "stack/remainder/0/mixer/query"
    assert (stored[f"{query}.q"].shape.dims, stored[f"{query}.scale"].shape.dims) == ((16, 8), (16, 1))
    assert query in stored_tensors(folder)
    assert "stack/remainder/1/ffn/router" in stored  # a router stays as it is


def test_nothing_is_left_of_an_export_whose_functions_compute_something_else(checkpoint, tmp_path, monkeypatch):
    write = exporting.write_rest

    def rotated(folder, source, weights, functions):
        config = dataclasses.replace(source.config.global_attention, rope_base=50.0)
        monkeypatch.setattr(source, "config", dataclasses.replace(source.config, global_attention=config))
        write(folder, source, weights, functions)

    monkeypatch.setattr(exporting, "write_rest", rotated)
    with pytest.raises(ExportError, match=r"logits of the exported functions differ from the model's by"):
        export_stablehlo(checkpoint, tmp_path / "out")
    assert not any(tmp_path.iterdir())


def test_what_does_not_go_together_is_refused(checkpoint, vocabulary, tmp_path):
    common = ["--checkpoint", str(checkpoint.path), "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match=r"error: --quantize is int8 with --to hf; allowed: --to stablehlo"):
        main([*common, "--to", "hf", "--quantize", "int8"])
    with pytest.raises(SystemExit, match=r"error: --block is 32 without --quantize; give --quantize int8, int4 or fp8"):
        main([*common, "--to", "stablehlo", "--block", "32"])
    with pytest.raises(
        SystemExit, match=r"error: block is 3; allowed: 0 \(a whole channel\) or a positive even number"
    ):
        main([*common, "--to", "stablehlo", "--quantize", "int4", "--block", "3"])
    config = gemma(robot=RobotConfig(1, 2, 2), bins=BinsHeadConfig(4))
    _, params, _ = random_states(config, vocabulary.size)
    acting = Checkpoint.open(trained(tmp_path / "run", config, params, vocabulary))
    with pytest.raises(ValueError, match="phase 'pretrain' has no mixture"):
        export_stablehlo(acting, tmp_path / "out")
    assert not (tmp_path / "out").exists()
