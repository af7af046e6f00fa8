"""GGUF files: settings, vocabulary and weights as llama.cpp names them, checked bit for bit, whole or not at all."""

import dataclasses

import ml_dtypes
import numpy as np
import pytest

from data.vocabulary import Vocabulary
from model.config import MoEConfig, NormConfig
from serving.export import main
from serving.import_hf import import_hf
from serving.interchange import gguf_file
from serving.interchange.gate import ExportError
from serving.interchange.gguf_file import export_gguf
from serving.interchange.tensor_files import open_tensors
from tests.serving.engines.models import MODELS, checkpoint_of
from tests.serving.interchange.folders import TEXT, edit_config, foreign_tokenizer, model_folder
from train.checkpoint import Checkpoint

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def vocabulary():
    return Vocabulary.train([TEXT], 384)


@pytest.fixture(scope="module")
def checkpoints(vocabulary, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return {name: checkpoint_of(folder / name, MODELS[name], vocabulary) for name in ("gemma3", "gemma4_moe")}


@pytest.fixture(scope="module")
def gguf():
    return pytest.importorskip("gguf", reason="needs the gguf library")


def read(gguf, file):
    reader = gguf.GGUFReader(file)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    return fields, {tensor.name: tensor for tensor in reader.tensors}


def test_a_gemma_3_has_its_settings_vocabulary_and_norms_with_one_added(gguf, checkpoints, vocabulary, tmp_path):
    main(["--checkpoint", str(checkpoints["gemma3"].path), "--to", "gguf", "--out", str(tmp_path / "model.gguf")])
    fields, tensors = read(gguf, tmp_path / "model.gguf")
    assert fields["general.architecture"] == "gemma3"
    settings = {
        "block_count": 5,
        "context_length": 48,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
        "attention.key_length": 64,
        "attention.sliding_window": 16,
        "attention.sliding_window_pattern": 3,
        "rope.freq_base": 1e6,
        "rope.freq_base_swa": 1e4,
        "rope.scaling.type": "linear",
        "rope.scaling.factor": 8.0,
    }
    assert {name: fields[f"gemma3.{name}"] for name in settings} == settings
    assert fields["tokenizer.ggml.tokens"][1:3] == ["<bos>", "<eos>"]
    assert len(fields["tokenizer.ggml.tokens"]) == vocabulary.size
    assert fields["tokenizer.ggml.token_type"][:5] == [3, 3, 3, 2, 3]  # of control symbols and the unknown piece
    assert (fields["tokenizer.ggml.bos_token_id"], fields["tokenizer.ggml.add_space_prefix"]) == (1, False)
    scale = checkpoints["gemma3"].params["norm"]["scale"]
    np.testing.assert_array_equal(tensors["output_norm.weight"].data, 1 + scale)
    np.testing.assert_array_equal(tensors["token_embd.weight"].data, checkpoints["gemma3"].params["tokens"]["table"])


def test_a_gemma_4_has_a_width_a_kind_of_layer_and_frequencies_as_a_tensor(gguf, checkpoints, tmp_path):
    export_gguf(checkpoints["gemma4_moe"], tmp_path / "model.gguf")
    fields, tensors = read(gguf, tmp_path / "model.gguf")
    settings = {
        "attention.key_length": 128,
        "attention.key_length_swa": 64,
        "attention.sliding_window_pattern": [True, True, False] * 2,
        "expert_count": 4,
        "expert_used_count": 2,
        "expert_feed_forward_length": 32,
        "final_logit_softcapping": 30.0,
    }
    assert {name: fields[f"gemma4.{name}"] for name in settings} == settings
    turning = tensors["rope_freqs.weight"].data == 1
    assert (turning.sum(), len(turning)) == (16, 64)  # a quarter of the pairs of 128
    assert tensors["blk.2.ffn_gate_up_exps.weight"].data.shape == (4, 64, 64)
    assert {"blk.0.ffn_gate_inp.scale", "blk.0.ffn_down_exps.scale", "blk.5.layer_output_scale.weight"} <= set(tensors)


def test_an_import_goes_on_as_a_file_with_its_own_context(gguf, tmp_path):
    source = model_folder(tmp_path / "hf", "gemma4_moe", tokenizer=foreign_tokenizer(90, model_type="unigram"))
    edit_config(source, max_position_embeddings=77)
    export_gguf(import_hf(source, tmp_path / "imported"), tmp_path / "model.gguf")
    fields, tensors = read(gguf, tmp_path / "model.gguf")
    assert (fields["gemma4.context_length"], fields["tokenizer.ggml.model"]) == (77, "t5")
    assert fields["tokenizer.ggml.token_type"][-6:] == [5] * 6  # rows of the embedding that no piece has
    stored = open_tensors(source)["model.layers.3.self_attn.o_proj.weight"].read()
    np.testing.assert_array_equal(tensors["blk.3.attn_output.weight"].data, stored)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "q8_0"])
def test_matrices_are_narrowed_and_vectors_and_routers_are_not(dtype, gguf, checkpoints, tmp_path):
    export_gguf(checkpoints["gemma4_moe"], tmp_path / "model.gguf", dtype=dtype)
    _, tensors = read(gguf, tmp_path / "model.gguf")
    kinds = {name: tensor.tensor_type.name.lower() for name, tensor in tensors.items()}
    narrow = {"float16": "f16", "bfloat16": "bf16", "q8_0": "q8_0"}[dtype]
    assert kinds["token_embd.weight"] == kinds["blk.1.attn_q.weight"] == kinds["blk.1.ffn_down_exps.weight"] == narrow
    assert {kinds[f"blk.1.{name}"] for name in ("attn_norm.weight", "ffn_gate_inp.weight", "ffn_gate_inp.scale")} == {
        "f32"
    }
    table = np.asarray(checkpoints["gemma4_moe"].params["tokens"]["table"])
    stored = gguf.dequantize(tensors["token_embd.weight"].data, tensors["token_embd.weight"].tensor_type)
    if dtype == "q8_0":
        assert np.abs(stored - table).max() <= np.abs(table).max() / 127
    else:
        wanted = table.astype(np.float16 if dtype == "float16" else ml_dtypes.bfloat16).astype(np.float32)
        np.testing.assert_array_equal(stored, wanted)


def changed(name, **fields):
    """`section__field` changes a field of a section."""
    config, sections = MODELS[name], {}
    for field, value in fields.items():
        section, _, inner = field.partition("__")
        whole = sections.get(section, getattr(config, section))
        sections[section] = dataclasses.replace(whole, **{inner: value}) if inner else value
    return dataclasses.replace(config, **sections)


MOE = MoEConfig(num_experts=2, top_k=1, hidden_dim=32, balance_loss=0.0)
REFUSED = {
    r"pattern is .*only with the same number of local layers": changed("gemma3", pattern=("global", "local")),
    r"pattern is \('global',\).*only with local and global": changed(
        "gemma3", pattern=("global",), local_attention=None
    ),
    r"local_attention.query_scale is 0.0625": changed(
        "gemma3", local_attention__query_scale=0.0625, global_attention__query_scale=0.0625
    ),
    r"global_attention.softcap is 50.0|local_attention.softcap is 50.0": changed(
        "gemma3", local_attention__softcap=50.0, global_attention__softcap=50.0
    ),
    r"local_attention.rope_scale is 2.0": changed("gemma3", local_attention__rope_scale=2.0),
    r"global_attention.rope_scale is 8.0": changed("gemma4_moe", global_attention__rope_scale=8.0),
    r"the model is a mixtral; --to gguf writes gemma3_text, gemma4_text": changed(
        "gemma3",
        pattern=("global",),
        local_attention=None,
        ffn=("moe",),
        dense=None,
        moe=MOE,
        norm=NormConfig(offset=False),
        norms="pre",
        scale_embeddings=False,
        tied_head=False,
        global_attention__qk_norm=False,
        global_attention__rope_scale=1.0,
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_llama_cpp_does_not_compute_is_refused_by_the_field(message, gguf, vocabulary, tmp_path):
    checkpoint = checkpoint_of(tmp_path / "run", REFUSED[message], vocabulary)
    with pytest.raises(ValueError, match=message):
        export_gguf(checkpoint, tmp_path / "model.gguf")
    assert {path.name for path in tmp_path.iterdir()} == {"run"}


@pytest.mark.parametrize(
    ("message", "settings"),
    [
        ("normalization is True; llama.cpp .* with False in a byte-pair vocabulary", {}),
        ("byte_fallback is True; .* in a unigram", {"model_type": "unigram", "byte_fallback": True, "vocab_size": 400}),
    ],
)
def test_a_vocabulary_that_llama_cpp_splits_in_another_way_is_refused(message, settings, gguf, tmp_path):
    size = settings.pop("vocab_size", 90)
    checkpoint = checkpoint_of(tmp_path / "run", MODELS["gemma3"], Vocabulary(foreign_tokenizer(size, **settings)))
    with pytest.raises(ValueError, match=message):
        export_gguf(checkpoint, tmp_path / "model.gguf")


def test_a_tensor_that_reads_back_differently_is_named_and_nothing_is_left(gguf, checkpoints, tmp_path, monkeypatch):
    write = gguf_file._Tensors.write

    def write_and_damage(tensors, writer):
        write(tensors, writer)
        (file,) = tmp_path.iterdir()
        found = next(t for t in gguf.GGUFReader(file).tensors if t.name == "blk.3.ffn_up.weight")
        with file.open("r+b") as opened:
            opened.seek(found.data_offset + 7)
            byte = opened.read(1)[0]
            opened.seek(found.data_offset + 7)
            opened.write(bytes([byte ^ 1]))  # the smallest change that there is

    monkeypatch.setattr(gguf_file._Tensors, "write", write_and_damage)
    with pytest.raises(ExportError, match=r"'blk.3.ffn_up.weight' read back differs from 'stack/remainder/3/ffn/up'"):
        export_gguf(checkpoints["gemma3"], tmp_path / "model.gguf")
    assert not any(tmp_path.iterdir())


def test_mistakes_are_named(checkpoints, tmp_path, monkeypatch, capsys):
    (tmp_path / "there").touch()
    if gguf_file.util.find_spec("gguf"):
        with pytest.raises(ValueError, match=r"--out .*there exists; remove it or choose another name"):
            export_gguf(checkpoints["gemma3"], tmp_path / "there")
        with pytest.raises(ValueError, match=r"--dtype is 'int3'; allowed with --to gguf: float32, float16, bfloat16"):
            export_gguf(checkpoints["gemma3"], tmp_path / "out", dtype="int3")
    monkeypatch.setattr(gguf_file.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r"error: --to gguf needs the library gguf.*pip install gguf"):
        main(["--checkpoint", str(checkpoints["gemma3"].path), "--to", "gguf", "--out", str(tmp_path / "out")])


def test_rows_that_do_not_divide_into_blocks_are_refused(gguf, vocabulary, tmp_path):
    config = changed("gemma3", dense__hidden_dim=40)
    checkpoint: Checkpoint = checkpoint_of(tmp_path / "run", config, vocabulary)
    with pytest.raises(ValueError, match=r"rows of 40, which do not divide into Q8_0's blocks of 32; choose another"):
        export_gguf(checkpoint, tmp_path / "out", dtype="q8_0")
