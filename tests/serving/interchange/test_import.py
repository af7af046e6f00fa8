"""Models of HF transformers as checkpoints: the same numbers, whatever way the files were written."""

import json
import shutil

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from ml_collections import ConfigDict

from data.vocabulary import Vocabulary
from eval import text
from serving.generate import generate
from serving.import_hf import import_hf, main
from serving.interchange.stacking import flat
from serving.model import LoadedModel
from tests.serving.interchange.folders import (
    NAMES,
    REFERENCES,
    TEXT,
    edit_config,
    foreign_tokenizer,
    logits_of,
    model_folder,
)
from train.build import build_phase
from train.checkpoint import Checkpoint
from train.phases import run

pytestmark = pytest.mark.usefixtures("quick_compilation", "own_cache")
TABLE, QUERY = "model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture(scope="module")
def tokenizer():
    return foreign_tokenizer()


@pytest.fixture(scope="module")
def gemma3(tokenizer, tmp_path_factory):
    """(model folder, checkpoint)"""
    folder = tmp_path_factory.mktemp("gemma3")
    source = model_folder(folder / "hf", "gemma3_text", tokenizer=tokenizer)
    return source, import_hf(source, folder / "imported")


def assert_equal(found: Checkpoint, wanted: Checkpoint):
    ours, theirs = flat(found.params), flat(wanted.params)
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[path], theirs[path]) for path in ours)


@pytest.mark.parametrize("name", NAMES)
def test_an_imported_checkpoint_computes_the_logits_of_the_reference(name, tokenizer, tmp_path):
    loaded = LoadedModel.of(import_hf(model_folder(tmp_path / "hf", name, tokenizer=tokenizer), tmp_path / "out"))
    expected = np.load(REFERENCES / name / "expected.npz")
    found = logits_of(loaded, expected["tokens/0"].tolist())
    assert np.abs(found - expected["logits/0"]).max() <= 1e-4 * np.abs(expected["logits/0"]).max()
    assert loaded.config.scan  # the form that training uses


def test_orbax_itself_reads_what_was_written(gemma3):
    _, checkpoint = gemma3
    assert checkpoint.params["stack"]["repeated"]["0"]["mixer"]["query"].shape == (2, 24, 4, 8)
    like = {"tokens": {"table": jax.ShapeDtypeStruct((96, 24), jnp.float32)}}
    like = checkpoint.params | like
    found = checkpoint.read_like("params", like)
    assert jax.tree.all(jax.tree.map(np.array_equal, found, checkpoint.params))


def test_text_is_generated_from_it(gemma3):
    _, checkpoint = gemma3
    loaded = LoadedModel.of(checkpoint)
    assert (loaded.vocabulary.text_size, loaded.vocabulary.size) == (90, 96)  # six rows that no piece has
    ids = [loaded.vocabulary.bos_id, *loaded.vocabulary.encode("To be")]
    likeliest = int(np.argmax(logits_of(loaded, ids)[-1, :90]))
    assert generate(loaded, ["To be"], num_tokens=1, temperature=0) == [loaded.vocabulary.decode([likeliest])]


@pytest.mark.parametrize("prefix", ["language_model.model.", "model.language_model."])
def test_shards_and_other_names_give_the_same_parameters(prefix, gemma3, tokenizer, tmp_path):
    rename = lambda arrays: {prefix + name.removeprefix("model."): array for name, array in arrays.items()}  # noqa: E731
    source = model_folder(tmp_path / "hf", "gemma3_text", change=rename, max_shard_bytes=40_000, tokenizer=tokenizer)
    assert len(list(source.glob("model-*-of-*.safetensors"))) > 3
    assert_equal(import_hf(source, tmp_path / "out"), gemma3[1])


def test_a_tied_head_may_be_written_out_but_must_be_the_embedding(gemma3, tokenizer, tmp_path):
    change = lambda arrays: arrays | {"lm_head.weight": arrays[TABLE]}  # noqa: E731
    source = model_folder(tmp_path / "hf", "gemma3_text", change=change, tokenizer=tokenizer)
    assert_equal(import_hf(source, tmp_path / "out"), gemma3[1])
    change = lambda arrays: arrays | {"lm_head.weight": arrays[TABLE] * 2}  # noqa: E731
    source = model_folder(tmp_path / "untied", "gemma3_text", change=change, tokenizer=tokenizer)
    with pytest.raises(ValueError, match=r"'lm_head.weight' differs from the embedding.*tie_word_embeddings"):
        import_hf(source, tmp_path / "other")


def test_bfloat16_is_kept_and_computes_in_float32(tokenizer, tmp_path):
    narrow = lambda arrays: {name: array.astype(ml_dtypes.bfloat16) for name, array in arrays.items()}  # noqa: E731
    checkpoint = import_hf(
        model_folder(tmp_path / "hf", "gemma3_text", change=narrow, tokenizer=tokenizer), tmp_path / "out"
    )
    assert {array.dtype.name for array in flat(checkpoint.params).values()} == {"bfloat16"}
    loaded = LoadedModel.of(checkpoint)
    assert {array.dtype.name for array in jax.tree.leaves(loaded.params)} == {"float32"}
    np.testing.assert_array_equal(loaded.params["norm"]["scale"], checkpoint.params["norm"]["scale"].astype("f4"))


def without(arrays):
    return {name: array for name, array in arrays.items() if name != QUERY}


MISTAKES = {
    "missing": (without, f"the tensor '{QUERY}' is missing"),
    "extra": (lambda a: a | {"model.layers.0.mlp.bias": np.ones(3, "f4")}, "nothing takes the tensor.*mlp.bias"),
    "shape": (lambda a: a | {QUERY: a[QUERY].T}, rf"'{QUERY}' has shape \[24, 32\].* makes it \[32, 24\]"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_tensors_that_do_not_belong_are_refused_by_name_and_nothing_is_left(mistake, tokenizer, tmp_path):
    change, message = MISTAKES[mistake]
    source = model_folder(tmp_path / "hf", "gemma3_text", change=change, tokenizer=tokenizer)
    with pytest.raises(ValueError, match=message):
        import_hf(source, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"hf"}


def test_files_that_cannot_be_read_are_named(gemma3, tmp_path):
    source = tmp_path / "hf"
    shutil.copytree(gemma3[0], source)
    file = source / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    with pytest.raises(ValueError, match=r"model.safetensors is cut short at the tensor 'model.*fetch it again"):
        import_hf(source, tmp_path / "out")
    file.write_bytes(whole[:6])
    with pytest.raises(ValueError, match="no whole safetensors file"):
        import_hf(source, tmp_path / "out")
    file.write_bytes(whole.replace(b'"F32"', b'"F16"', 1))
    with pytest.raises(ValueError, match=r"is F16; allowed: F32, BF16"):
        import_hf(source, tmp_path / "out")
    file.unlink()
    with pytest.raises(ValueError, match=r"holds neither model\.safetensors nor its index"):
        import_hf(source, tmp_path / "out")


def test_a_folder_without_a_tokenizer_needs_one_that_fits(tokenizer, tmp_path, capsys):
    source, file = model_folder(tmp_path / "hf", "mixtral", tokenizer=None), tmp_path / "given.model"
    file.write_bytes(tokenizer)
    with pytest.raises(ValueError, match=r"has no tokenizer.model; give --tokenizer FILE"):
        import_hf(source, tmp_path / "out")
    main([str(source), "--out", str(tmp_path / "out"), "--tokenizer", str(file)])
    assert "mixtral, 2 layers" in capsys.readouterr().out
    assert Checkpoint.open(tmp_path / "out").vocabulary_bytes[8:] == tokenizer
    file.write_bytes(foreign_tokenizer(120))
    with pytest.raises(SystemExit, match=r"error: .*has 120 pieces, but config.json has vocab_size 96"):
        main([str(source), "--out", str(tmp_path / "more"), "--tokenizer", str(file)])
    with pytest.raises(ValueError, match=r"--tokenizer .*absent.model is no file"):
        import_hf(source, tmp_path / "more", tokenizer=tmp_path / "absent.model")
    file.write_bytes(tokenizer)
    with pytest.raises(ValueError, match=r"--out .*out exists; remove it or choose another"):
        import_hf(source, tmp_path / "out", tokenizer=file)


def test_fields_that_this_stack_cannot_express_are_refused_by_name(gemma3, tmp_path):
    source = tmp_path / "hf"
    shutil.copytree(gemma3[0], source)
    edit_config(source, attention_bias=True)
    with pytest.raises(ValueError, match="attention_bias is True"):
        import_hf(source, tmp_path / "out")
    edit_config(source, model_type="bert")
    with pytest.raises(ValueError, match=r"model_type is 'bert'; this stack maps gemma3_text"):
        import_hf(source, tmp_path / "out")


# Of each, the fields by which transformers' own config class describes the layers in question.
RECURRENT = {
    "block_types is .*, lru_width is 2560: those are RG-LRU layers, which no mixer": {
        "model_type": "recurrent_gemma",
        "block_types": ["recurrent", "recurrent", "attention"],
        "lru_width": 2560,
        "conv1d_width": 4,
    },
    "mamba_d_state is 16: those are Mamba layers": {"model_type": "jamba", "attn_layer_period": 8, "mamba_d_state": 16},
    "linear_num_key_heads is 16.*: those are gated delta net layers": {
        "model_type": "qwen3_next",
        "layer_types": ["linear_attention", "full_attention"],
        "linear_num_key_heads": 16,
        "linear_num_value_heads": 32,
    },
}


@pytest.mark.parametrize("message", RECURRENT)
def test_recurrent_layers_that_are_not_s5_are_refused_by_their_fields(message, gemma3, tmp_path):
    source = tmp_path / "hf"
    shutil.copytree(gemma3[0], source)
    edit_config(source, **RECURRENT[message])
    with pytest.raises(SystemExit, match=f"error: config.json: model_type is .*this stack maps .*{message}"):
        main([str(source), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def fine_tuning(checkpoint: Checkpoint, folder, **vocabulary) -> ConfigDict:
    """One step on text from the imported weights."""
    (folder / "text.txt").write_text(TEXT[:4000])
    phase = {
        "objective": "next_token",
        "model": "base",
        "mixture": {"text": 1.0},
        "pipeline": {"batch_size": 2, "slots": 32},
        "steps": 1,
        "init": f"path:{checkpoint.path}",
        "optimizer": {"learning_rate": 1e-9, "schedule": "constant"},
    }
    source = {"kind": "text", "paths": (str(folder / "text.txt"),), "separator": "\n\n", "holdout": 0.2}
    return ConfigDict(
        {
            "seed": 0,
            "mesh": {"data": 1},
            "train": {"phases": ("tune",)},
            "vocabulary": {"path": str(checkpoint.path / "files" / "tokenizer.model"), **vocabulary},
            "sources": {"text": source},
            "models": {"base": checkpoint.config["models"]["imported"]},
            "phases": {"tune": phase},
        },
        type_safe=False,
    )


def test_training_starts_from_it_and_new_codes_get_fresh_rows(gemma3, tmp_path):
    _, checkpoint = gemma3
    config = fine_tuning(checkpoint, tmp_path, num_codes=4)
    done = run(config, tmp_path / "run", build_phase)["tune"]
    assert np.isfinite(done["losses"]["loss"])
    report = json.loads((tmp_path / "run/tune/init.json").read_text())
    assert [name for name, _ in report["fresh"]] == ["tokens/table[96:]"]
    assert report["unused"] == []
    tuned = Checkpoint.open(tmp_path / "run/tune").params
    assert tuned["tokens"]["table"].shape == (100, 24)
    np.testing.assert_allclose(tuned["tokens"]["table"][:96], checkpoint.params["tokens"]["table"], atol=1e-6)
    loaded = LoadedModel.of(checkpoint)
    held_out = text.held_out(config.sources.text.to_dict(), loaded, "validation")
    nats, _ = text.nats_per_token(loaded, held_out)
    assert nats == pytest.approx(done["evaluation"]["loss/text"], rel=0.05)  # of longer rows and without codes


def test_training_refuses_another_tokenizer_and_a_folder_that_is_no_checkpoint(gemma3, tmp_path):
    config = fine_tuning(gemma3[1], tmp_path)
    Vocabulary.train([TEXT], 384).save(tmp_path / "other.model")
    config.vocabulary.path = str(tmp_path / "other.model")
    with pytest.raises(ValueError, match="was trained with tokenizer"):
        run(config, tmp_path / "run", build_phase)
    config.phases.tune.init = f"path:{tmp_path}/nowhere"
    with pytest.raises(ValueError, match=r"config.phases.tune.init: .*nowhere holds no finished checkpoint"):
        run(config, tmp_path / "other", build_phase)
