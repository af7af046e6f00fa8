"""Checkpoints as folders of HF transformers: the same bits, whole or not at all."""

import dataclasses
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from data.vocabulary import Vocabulary
from model.config import FlowHeadConfig, ImageConfig, MoEConfig, NormConfig, RecurrentConfig, RobotConfig
from serving import export
from serving.export import export_hf, export_orbax, main
from serving.import_hf import import_hf
from serving.interchange.files import ModelFolder
from serving.interchange.gate import ExportError, Gate
from serving.interchange.source import Source
from serving.interchange.stacking import flat
from serving.interchange.tensor_files import open_tensors
from serving.model import LoadedModel
from tests.model.weights import random_states
from tests.serving.interchange.folders import (
    NAMES,
    TEXT,
    edit_config,
    foreign_tokenizer,
    gemma,
    logits_of,
    model_folder,
    trained,
)
from train.checkpoint import Checkpoint

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def vocabulary():
    return Vocabulary.train([TEXT], 384)


def checkpoint_of(folder, vocabulary, config, **items):
    """Random weights as a training phase leaves them."""
    _, params, buffers = random_states(config, vocabulary.size, seed=1, std=0.3)
    return Checkpoint.open(trained(folder, config, params, vocabulary, buffers, **items))


@pytest.fixture(scope="module")
def pretrained(vocabulary, tmp_path_factory):
    return checkpoint_of(tmp_path_factory.mktemp("run") / "pretrain", vocabulary, gemma())


@pytest.mark.parametrize("name", NAMES)
def test_an_import_comes_back_bit_for_bit_with_its_files(name, tmp_path):
    def mixed(arrays):  # every third tensor narrower, among them some layers of one parameter and not others
        return {n: a.astype(ml_dtypes.bfloat16) if i % 3 == 0 else a for i, (n, a) in enumerate(arrays.items())}

    source = model_folder(tmp_path / "hf", name, change=mixed, tokenizer=foreign_tokenizer())
    edit_config(source, max_position_embeddings=77)
    (source / "tokenizer_config.json").write_text('{"chat_template": "{{ bos_token }}"}')
    checkpoint = import_hf(source, tmp_path / "imported")
    assert export_hf(checkpoint, tmp_path / "out") == 0
    before, after = open_tensors(source), open_tensors(tmp_path / "out")
    assert before.keys() == after.keys()
    assert all(before[tensor].equals(after[tensor]) for tensor in before)
    for file in ("config.json", "tokenizer.model", "tokenizer_config.json"):
        assert (tmp_path / "out" / file).read_bytes() == (source / file).read_bytes(), file


def test_what_training_left_is_divided_into_shards_with_all_that_a_reader_needs(pretrained, vocabulary, tmp_path):
    export_hf(pretrained, tmp_path / "out", max_shard_bytes=8000)
    folder = tmp_path / "out"
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    shards = sorted(set(index["weight_map"].values()))
    assert shards[0] == f"model-00001-of-{len(shards):05}.safetensors"
    tensors = open_tensors(folder)
    assert index["metadata"]["total_size"] == sum(tensor.shape.num_bytes for tensor in tensors.values())
    for shard in shards:
        sizes = [tensors[name].shape.num_bytes for name, file in index["weight_map"].items() if file == shard]
        assert sum(sizes) <= 8000 or len(sizes) == 1
    loaded = LoadedModel.of(pretrained).layer_by_layer()
    wanted = flat(loaded.params)
    found = {path: np.full(array.shape, np.nan, np.float32) for path, array in wanted.items()}
    for entry, part in ModelFolder(folder).parts({path: array.shape for path, array in wanted.items()}):
        found[entry.ours][entry.index] = part
    assert all(np.array_equal(found[path], wanted[path]) for path in wanted)
    fields = json.loads((folder / "config.json").read_text())
    assert (fields["model_type"], fields["architectures"]) == ("gemma3_text", ["Gemma3ForCausalLM"])
    assert (fields["vocab_size"], fields["dtype"], fields["max_position_embeddings"]) == (384, "float32", 48)
    assert fields["layer_types"] == [f"{kind}_attention" for kind in ("sliding", "full", "sliding", "full", "sliding")]
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    assert json.loads((folder / "generation_config.json").read_text()).items() >= ids.items()
    assert fields.items() >= ids.items()
    assert Vocabulary.load(folder / "tokenizer.model").hash == vocabulary.hash
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    assert (tokenizer["bos_token"], tokenizer["pad_token"], tokenizer["add_prefix_space"]) == ("<bos>", "<pad>", False)
    assert json.loads((folder / "special_tokens_map.json").read_text())["bos_token"] == "<bos>"
    assert len(json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]) == 384


def test_a_balancing_bias_that_is_not_zero_has_no_place_in_a_folder(vocabulary, tmp_path):
    """Left by a phase that balanced its experts, and used although this one does not."""
    attention = dataclasses.replace(gemma().attention("global"), qk_norm=False)
    config = gemma(**EXPERTS | PLAIN | {"global_attention": attention, "moe": MOE, "tied_head": False})
    with pytest.raises(
        ValueError, match=r"the buffer 'stack/.*' of models.base is not zero, and a mixtral has no place"
    ):
        export_hf(checkpoint_of(tmp_path / "run", vocabulary, config), tmp_path / "out")


def test_averaged_weights_are_exported_where_there_are_any(vocabulary, tmp_path):
    _, averaged, _ = random_states(gemma(), vocabulary.size, seed=2, std=0.3)
    export_hf(checkpoint_of(tmp_path / "run", vocabulary, gemma(), ema=averaged), tmp_path / "out")
    table = open_tensors(tmp_path / "out")["model.embed_tokens.weight"].read()
    np.testing.assert_array_equal(table, averaged["tokens"]["table"])


def test_weights_may_be_rounded_to_bfloat16(pretrained, tmp_path):
    export_hf(pretrained, tmp_path / "out", dtype="bfloat16")
    tensor = open_tensors(tmp_path / "out")["model.norm.weight"].read()
    np.testing.assert_array_equal(tensor, pretrained.params["norm"]["scale"].astype(ml_dtypes.bfloat16))
    assert json.loads((tmp_path / "out/config.json").read_text())["dtype"] == "bfloat16"
    with pytest.raises(ValueError, match=r"--dtype is 'int8'; allowed: float32, bfloat16"):
        export_hf(pretrained, tmp_path / "other", dtype="int8")


MOE = MoEConfig(num_experts=2, top_k=1, hidden_dim=8)
EXPERTS = {"ffn": ("moe",), "dense": None, "norms": "pre", "norm": NormConfig(offset=False), "scale_embeddings": False}
PLAIN = {"pattern": ("global",), "local_attention": None}
REFUSED = {
    "recurrent is": {"pattern": ("recurrent",), "local_attention": None, "global_attention": None}
    | {"recurrent": RecurrentConfig(num_states=4)},
    "image is": {"image": ImageConfig(8, 8, 4)},
    "robot is": {"robot": RobotConfig(1, 2, 2), "flow": FlowHeadConfig(8, 8)},
    "num_codes is 4": {"num_codes": 4},
    "gemma3_text: norms is 'pre', it has 'sandwich'": {"norms": "pre"},
    "gemma3_text: tied_head is False, it has True": {"tied_head": False},
    "gemma3_text: scale_embeddings is False": {"scale_embeddings": False},
    "gemma3_text: local_attention.sink is True": {
        "local_attention": dataclasses.replace(gemma().attention("local"), sink=True)
    },
    "gemma3_text: query_scale is 0.3": {
        name: dataclasses.replace(gemma().attention(name.split("_")[0]), query_scale=0.3)
        for name in ("local_attention", "global_attention")
    },
    "gemma3_text: global_attention.head_dim is 16, it has 8": {
        "global_attention": dataclasses.replace(gemma().attention("global"), head_dim=16)
    },
    "mixtral: moe.bias_rate is 0.01, it has 0.0": EXPERTS | PLAIN | {"moe": dataclasses.replace(MOE, bias_rate=0.01)},
    "mixtral: moe.shared_dim is 8, it has 0": EXPERTS | PLAIN | {"moe": dataclasses.replace(MOE, shared_dim=8)},
    "mixtral: moe.router is 'sigmoid'": EXPERTS | PLAIN | {"moe": dataclasses.replace(MOE, router="sigmoid")},
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_transformers_cannot_express_is_refused_by_the_field_before_anything_is_written(
    message, vocabulary, tmp_path
):
    config = dataclasses.replace(gemma(), **({"recurrent": None} | REFUSED[message]))
    if "moe" in message:
        section = dataclasses.replace(config.attention("global"), qk_norm=False)
        config = dataclasses.replace(config, global_attention=section)
    params = {"tokens": {"table": jnp.zeros((2, 2))}}
    path = trained(tmp_path / "run", config, params, vocabulary)
    with pytest.raises(ValueError) as error:
        export_hf(Checkpoint.open(path), tmp_path / "deep" / "out")
    assert message in str(error.value)
    assert {path.name for path in tmp_path.iterdir()} == {"run"}


def damaged(damage):
    """`write_folder` with something done to the folder after it."""
    write = export.write_folder

    def write_and_damage(folder, *arguments):
        write(folder, *arguments)
        damage(folder)

    return write_and_damage


def flip(name, at=0):
    def damage(folder):
        tensor = open_tensors(folder)[name]
        array = tensor.read().copy()
        array.reshape(-1).view(np.uint32)[at] ^= 1  # the smallest change that there is
        tensor.write(array)

    return damage


def swapped(folder):
    tensors = open_tensors(folder)
    gate, up = (tensors[f"model.layers.3.mlp.{name}_proj.weight"] for name in ("gate", "up"))
    arrays = gate.read().copy(), up.read().copy()
    gate.write(arrays[1])
    up.write(arrays[0])


DAMAGES = {
    "'model.layers.2.self_attn.k_proj.weight'": flip("model.layers.2.self_attn.k_proj.weight", 5),
    "'model.embed_tokens.weight'": flip("model.embed_tokens.weight", -1),
    "'model.layers.3.mlp.gate_proj.weight'": swapped,
    "local_attention.window is 5, it has 6": lambda folder: edit_config(folder, sliding_window=6),
    "cannot be read: .* cut short": lambda folder: os.truncate(folder / "model.safetensors", 20_000),
}


@pytest.mark.parametrize("message", DAMAGES)
def test_the_gate_names_what_differs_and_leaves_nothing(message, pretrained, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "write_folder", damaged(DAMAGES[message]))
    with pytest.raises(ExportError, match=message):
        export_hf(pretrained, tmp_path / "out")
    assert not any(tmp_path.iterdir())


def reference(folder, edit):
    """A stand-in for a Python with transformers: answers as ours does, then `edit`ed."""
    script = folder / "reference"
    script.write_text(
        f"#!{sys.executable}\nimport sys\nimport numpy as np\n"
        f"answer = dict(np.load({str(folder / 'right.npz')!r}))\n{edit}\nnp.savez(sys.argv[4], **answer)\n"
    )
    script.chmod(0o755)
    return str(script)


ANSWERS = {
    "": None,
    "answer['logits'][0, 0, 3] += 1": r"logits of what transformers reads back differ by 1, .*with them$",
    "answer['logits'] *= np.nan": "differ by nan",
    "answer['missing'] = np.array(['model.norm.weight'])": "does not find the tensor 'model.norm.weight'",
    "answer['other'] = np.array(['model.norm.weight'])": "reads another value of the tensor 'model.norm.weight'",
    "answer['logits'] += 1; answer['hidden'][3:] += 1": r"part at the tensors model.layers.2",
    "sys.exit('no memory')": "cannot read the export with transformers:\nno memory",
}


@pytest.mark.parametrize("edit", ANSWERS)
def test_the_reference_library_must_agree(edit, pretrained, tmp_path):
    export_hf(pretrained, tmp_path / "right")
    ours, _, hidden = Gate(tmp_path / "right", Source(pretrained))._both_logits()
    none = np.array([], str)
    np.savez(tmp_path / "right.npz", logits=ours, hidden=np.stack(hidden), missing=none, other=none)
    python = reference(tmp_path, edit)
    if ANSWERS[edit] is None:
        assert export_hf(pretrained, tmp_path / "out", reference=python) == 0
        return
    with pytest.raises(ExportError, match=ANSWERS[edit]):
        export_hf(pretrained, tmp_path / "out", reference=python)
    assert not (tmp_path / "out").exists()


def test_the_gate_computes_layer_by_layer_what_the_whole_model_does(pretrained, tmp_path):
    export_hf(pretrained, tmp_path / "out")
    gate, loaded = Gate(tmp_path / "out", Source(pretrained)), LoadedModel.of(pretrained)
    whole = [logits_of(loaded, row.tolist()) for row in gate.batch.tokens]
    np.testing.assert_allclose(gate._both_logits()[0], whole, atol=1e-5, rtol=1e-5)


def test_bare_weights_of_any_model_are_a_checkpoint_without_what_training_needs(vocabulary, tmp_path):
    sections = {"moe": dataclasses.replace(MOE, bias_rate=0.01), "recurrent": RecurrentConfig(num_states=4)}
    config = gemma(ffn=("dense", "moe"), pattern=("local", "recurrent"), global_attention=None, **sections)
    checkpoint = checkpoint_of(tmp_path / "run", vocabulary, config)
    export_orbax(checkpoint, tmp_path / "out")
    bare = Checkpoint.open(tmp_path / "out")
    assert {path.name for path in bare.path.iterdir()} == {"params", "buffers", "files"}
    for found, wanted in ((bare.params, checkpoint.params), (bare.buffers, checkpoint.buffers)):
        assert jax.tree.all(jax.tree.map(np.array_equal, found, wanted))
    assert LoadedModel.of(bare).config == config


def test_the_command_says_what_it_wrote_and_what_it_cannot(pretrained, tmp_path, capsys):
    common = ["--checkpoint", str(pretrained.path), "--out", str(tmp_path / "out")]
    main([*common, "--to", "orbax"])
    assert "bit for bit" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"error: --out .*out exists"):
        main([*common, "--to", "hf"])


def parity_python() -> str | None:
    """An interpreter with torch and transformers: this one, or the one that PARITY_PYTHON names."""
    python = os.environ.get("PARITY_PYTHON", sys.executable)
    found = subprocess.run([python, "-c", "import torch, transformers"], capture_output=True, check=False)
    return python if found.returncode == 0 else None


@pytest.mark.slow
@pytest.mark.parametrize("name", [*NAMES, "own"])
def test_transformers_reads_the_exports_and_computes_the_same_logits(name, pretrained, tmp_path):
    python = parity_python()
    if python is None:
        pytest.skip("needs torch and transformers, here or in the interpreter that PARITY_PYTHON names")
    checkpoint = pretrained
    if name != "own":
        source = model_folder(tmp_path / "hf", name, tokenizer=foreign_tokenizer())
        checkpoint = import_hf(source, tmp_path / "imported")
    assert 0 < export_hf(checkpoint, tmp_path / "out", max_shard_bytes=60_000, reference=python) < 1e-3
    assert 0 < export_hf(checkpoint, tmp_path / "narrow", dtype="bfloat16", reference=python) < 1e-3


MEASURE = """
import sys
from train.checkpoint import Checkpoint
from serving.export import export_hf
from serving.import_hf import import_hf
import jax
jax.numpy.zeros(1).block_until_ready()
peak = lambda: int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) << 10
before = peak()
if sys.argv[1] == "import":
    import_hf(sys.argv[2], sys.argv[3])
else:
    export_hf(Checkpoint.open(sys.argv[2]), sys.argv[3])
print(peak() - before)
"""


@pytest.mark.slow
def test_memory_is_bounded_by_the_largest_tensor_whatever_the_size_of_the_model(tmp_path):
    """700 MB in tensors of at most 31 MB: an import and its export never hold the model."""
    wide = gemma(model_dim=640, num_layers=48)
    attention = {"num_heads": 4, "num_kv_heads": 1, "head_dim": 256}
    sections = {
        name: dataclasses.replace(wide.attention(name.split("_")[0]), **attention)
        for name in ("local_attention", "global_attention")
    }
    config = dataclasses.replace(wide, dense=dataclasses.replace(wide.dense, hidden_dim=1024), **sections)
    vocabulary = Vocabulary(foreign_tokenizer(), num_unused=12_000 - 90)
    _, params, _ = random_states(config, vocabulary.size, seed=0, std=0.02)
    total = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    table = params["tokens"]["table"].nbytes
    assert total > 8 * table
    checkpoint = trained(tmp_path / "run", config, params, vocabulary)

    def peak(*arguments) -> int:
        command = [sys.executable, "-c", MEASURE, *map(str, arguments)]
        # What the allocator keeps for threads and in huge pages is not what is measured.
        environment = os.environ | {"MALLOC_ARENA_MAX": "1", "GLIBC_TUNABLES": ""}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        return int(done.stdout)

    fixed = 120 << 20  # compiled programs and blocks of chunks
    peak("export", checkpoint, tmp_path / "hf")
    assert peak("import", tmp_path / "hf", tmp_path / "imported") <= 2 * table + fixed
    assert peak("export", tmp_path / "imported", tmp_path / "again") <= 2 * table + fixed
    assert total > 2 * table + fixed, "the bounds would hold for a whole copy too"
