"""Files of Gemma 3 with pictures go in and out unchanged, whatever their writer called things."""

import json
import os
import subprocess
import sys

import jax
import ml_dtypes
import numpy as np
import pytest

from data.vocabulary import Vocabulary
from serving.export import export_hf
from serving.import_hf import import_hf
from serving.interchange.files import ModelFolder
from serving.interchange.tensor_files import open_tensors
from serving.model import LoadedModel
from tests.model.weights import random_states
from tests.serving.interchange.folders import (
    REFERENCES,
    TEXT,
    foreign_tokenizer,
    model_folder,
    seeing_gemma,
    trained,
)
from train.checkpoint import Checkpoint

FIELDS = json.loads((REFERENCES / "gemma3" / "config.json").read_text())
pytestmark = pytest.mark.usefixtures("quick_compilation")


MARKS = {"user_defined_symbols": ["<start_of_image>", "<end_of_image>"], "add_dummy_prefix": False}


@pytest.fixture(scope="module")
def tokenizer():
    """As the model's own: ids 4 and 5 around a picture, and fewer pieces than rows."""
    return foreign_tokenizer(90, control_symbols=["<control>"], **MARKS)


RELEASED = {"vision_tower.": "vision_tower.vision_model."}  # as transformers 4 wrote them
INSIDE = {name: f"model.{name}" for name in ("vision_tower.", "multi_modal_projector.")}
NAMES = {
    "transformers 5": {},
    "released": RELEASED,
    "inside the model": INSIDE | {"language_model.model.": "model.language_model."},
    "both": {"vision_tower.": "model.vision_tower.vision_model.", "language_model.model.": "model.language_model."},
}


def renamed(names):
    def rename(arrays):
        for old, new in names.items():
            arrays = {new + n.removeprefix(old) if n.startswith(old) else n: array for n, array in arrays.items()}
        return arrays

    return rename


@pytest.mark.parametrize("names", NAMES)
def test_a_round_trip_gives_every_bit_back_whatever_the_writer_called_the_tensors(names, tokenizer, tmp_path):
    def change(arrays):  # some layers of one stacked parameter are narrower, and others not
        mixed = {n: a.astype(ml_dtypes.bfloat16) if i % 3 == 0 else a for i, (n, a) in enumerate(arrays.items())}
        return renamed(NAMES[names])(mixed)

    source = model_folder(tmp_path / "hf", "gemma3", change=change, tokenizer=tokenizer)
    (source / "preprocessor_config.json").write_text('{"size": {"height": 32, "width": 32}}')
    assert export_hf(import_hf(source, tmp_path / "imported"), tmp_path / "out") == 0
    before, after = open_tensors(REFERENCES / "gemma3"), open_tensors(tmp_path / "out")
    assert {name.replace("vision_model.", "") for name in after} == set(before)
    written = open_tensors(source)
    released = renamed(RELEASED)({name: name for name in before})
    theirs = renamed(NAMES[names])({name: name for name in before})
    for new, old in released.items():
        assert after[new].equals(written[next(k for k, v in theirs.items() if v == old)]), new
    for file in ("config.json", "tokenizer.model", "preprocessor_config.json"):
        assert (tmp_path / "out" / file).read_bytes() == (source / file).read_bytes(), file


def test_a_pooling_head_is_neither_read_nor_missed(tokenizer, tmp_path):
    head = {f"vision_tower.head.{name}": np.ones(3, "f4") for name in ("probe", "mlp.fc1.bias")}
    source = model_folder(tmp_path / "hf", "gemma3", change=lambda arrays: arrays | head, tokenizer=tokenizer)
    vision = FIELDS["vision_config"] | {"vision_use_head": True}
    (source / "config.json").write_text(json.dumps(FIELDS | {"vision_config": vision}))
    export_hf(import_hf(source, tmp_path / "imported"), tmp_path / "out")
    assert not any("head" in name for name in open_tensors(tmp_path / "out"))
    assert json.loads((tmp_path / "out/config.json").read_text())["vision_config"]["vision_use_head"] is False


def test_a_model_trained_here_is_written_with_all_that_a_reader_of_pictures_needs(tmp_path):
    vocabulary = Vocabulary.train([TEXT], 384)
    _, params, _ = random_states(seeing_gemma(), vocabulary.size, std=0.3)
    checkpoint = Checkpoint.open(trained(tmp_path / "run", seeing_gemma(), params, vocabulary))
    assert export_hf(checkpoint, tmp_path / "out") < 1e-5
    fields = json.loads((tmp_path / "out/config.json").read_text())
    assert (fields["model_type"], fields["architectures"]) == ("gemma3", ["Gemma3ForConditionalGeneration"])
    assert (fields["text_config"]["vocab_size"], fields["text_config"]["max_position_embeddings"]) == (384, 48)
    assert (fields["image_token_index"], fields["boi_token_index"]) == (vocabulary.piece_id("<image>"), None)
    assert fields["mm_tokens_per_image"] == 4
    processor = json.loads((tmp_path / "out/processor_config.json").read_text())
    assert processor["image_seq_length"] == 4
    assert processor["image_processor"]["size"] == {"height": 16, "width": 16}
    again = import_hf(tmp_path / "out", tmp_path / "again")
    loaded, back = (LoadedModel.of(c).layer_by_layer() for c in (checkpoint, again))
    assert jax.tree.all(jax.tree.map(np.array_equal, loaded.params, back.params))


def parity_python() -> str | None:
    """An interpreter with torch and transformers: this one, or the one that PARITY_PYTHON names."""
    python = os.environ.get("PARITY_PYTHON", sys.executable)
    found = subprocess.run([python, "-c", "import torch, transformers"], capture_output=True, check=False)
    return python if found.returncode == 0 else None


@pytest.mark.slow
@pytest.mark.parametrize("origin", ["imported", "own"])
def test_transformers_reads_the_exports_and_computes_the_same_logits(origin, tokenizer, tmp_path):
    python = parity_python()
    if python is None:
        pytest.skip("needs torch and transformers, here or in the interpreter that PARITY_PYTHON names")
    if origin == "imported":
        checkpoint = import_hf(model_folder(tmp_path / "hf", "gemma3", tokenizer=tokenizer), tmp_path / "imported")
    else:
        vocabulary = Vocabulary.train([TEXT], 384)
        _, params, _ = random_states(seeing_gemma(), vocabulary.size, std=0.3)
        checkpoint = Checkpoint.open(trained(tmp_path / "run", seeing_gemma(), params, vocabulary))
    assert 0 < export_hf(checkpoint, tmp_path / "out", max_shard_bytes=60_000, reference=python) < 1e-4
    processor = "import sys, transformers; print(transformers.AutoImageProcessor.from_pretrained(sys.argv[1]).size)"
    if origin == "own":
        done = subprocess.run([python, "-c", processor, tmp_path / "out"], capture_output=True, text=True, check=True)
        assert "'height': 16" in done.stdout or "height=16" in done.stdout


@pytest.mark.parametrize(
    ("file", "fields", "message"),
    [
        ("preprocessor_config.json", {"size": {"height": 32, "width": 32}, "resample": 3}, "resample is 3"),
        ("preprocessor_config.json", {}, "size is {'height': 224, 'width': 224}"),
        ("preprocessor_config.json", {"size": {"height": 32, "width": 32}, "image_mean": [0.4] * 3}, "image_mean is"),
        (
            "preprocessor_config.json",
            {"size": {"height": 32, "width": 32}, "pan_and_scan_max_num_crops": 9},
            "pan_and_scan_max_num_crops is 9",
        ),
        ("preprocessor_config.json", {"size": {"height": 32, "width": 32}, "do_pad": True}, "do_pad is not understood"),
        ("processor_config.json", {"image_seq_length": 256}, "image_seq_length is 256, config.json makes 4"),
        ("processor_config.json", {"image_processor": {"do_resize": False}}, "size is"),
    ],
)
def test_pictures_that_are_prepared_otherwise_are_refused_by_file_and_field(file, fields, message, tmp_path):
    source = model_folder(tmp_path / "hf", "gemma3", tokenizer=None)
    (source / file).write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=rf"^{file}: {message}"):
        ModelFolder(source)
