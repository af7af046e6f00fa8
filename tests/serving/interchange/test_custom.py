"""The hybrid as a custom module of transformers: the same bits, the same logits, and text from its own `generate`."""

import dataclasses
import json
import subprocess

import jax
import numpy as np
import pytest

from data.elements import Tokens
from data.vocabulary import Vocabulary
from model.config import ImageConfig, MoEConfig, RecurrentConfig
from serving.decoder import Decoder
from serving.export import export_hf, main
from serving.generate import complete
from serving.import_hf import import_hf
from serving.interchange.kinema import Kinema
from serving.interchange.tensor_files import open_tensors
from serving.model import LoadedModel
from serving.sampling import Sampling
from tests.model.weights import random_states
from tests.serving.interchange.folders import TEXT, gemma, trained
from tests.serving.interchange.test_export import parity_python
from train.checkpoint import Checkpoint

pytestmark = pytest.mark.usefixtures("quick_compilation")

WIDE = gemma().attention("global")
# Every kind of layer, and every option of theirs in one of the two.
HYBRID = gemma(
    num_layers=7,
    pattern=("local", "recurrent", "global"),
    ffn=("dense", "moe", "dense_moe"),
    moe=MoEConfig(4, 2, 8, shared_dim=8, router="sigmoid", router_norm=True, expert_scale=True, bias_rate=0.01),
    recurrent=RecurrentConfig(num_states=4),
    global_attention=dataclasses.replace(WIDE, softcap=10.0, sink=True, value_norm=True, rope_fraction=0.5),
    layer_scale=True,
    num_codes=8,
    tied_head=False,
    final_softcap=20.0,
)
PLAIN = dataclasses.replace(
    HYBRID,
    moe=MoEConfig(3, 1, 8),
    norms="pre",
    norm=dataclasses.replace(HYBRID.norm, offset=False),
    global_attention=dataclasses.replace(WIDE, qk_norm=False, tied_values=True, query_scale=0.5, rope_scale=2.0),
    layer_scale=False,
    scale_embeddings=False,
    num_codes=0,
    tied_head=True,
    final_softcap=None,
)
CONFIGS = {"hybrid": HYBRID, "plain": PLAIN}


@pytest.fixture(scope="module")
def vocabulary():
    return Vocabulary.train([TEXT], 384, num_codes=8)


@pytest.fixture(scope="module", params=CONFIGS)
def checkpoint(request, vocabulary, tmp_path_factory):
    config = CONFIGS[request.param]
    _, params, buffers = random_states(config, vocabulary.size, seed=3, std=0.25)
    return Checkpoint.open(trained(tmp_path_factory.mktemp("run") / "base", config, params, vocabulary, buffers))


def test_every_parameter_and_buffer_comes_back_bit_for_bit(checkpoint, tmp_path):
    assert export_hf(checkpoint, tmp_path / "out", custom=True, max_shard_bytes=50_000) == 0
    again = import_hf(tmp_path / "out", tmp_path / "again")
    ours, theirs = (LoadedModel.of(c).layer_by_layer() for c in (checkpoint, again))
    for before, after in ((ours.params, theirs.params), (ours.buffers, theirs.buffers)):
        jax.tree.map(np.testing.assert_array_equal, before, after)
    assert any(np.any(leaf) for leaf in jax.tree.leaves(ours.buffers))
    export_hf(again, tmp_path / "third", custom=True)
    first, third = open_tensors(tmp_path / "out"), open_tensors(tmp_path / "third")
    assert first.keys() == third.keys()
    assert all(first[name].equals(third[name]) for name in first)


def test_the_folder_brings_the_module_that_its_config_names(checkpoint, tmp_path):
    export_hf(checkpoint, tmp_path / "out", custom=True)
    fields = json.loads((tmp_path / "out/config.json").read_text())
    assert (fields["model_type"], fields["architectures"], fields["use_cache"]) == (
        "kinema",
        [Kinema.class_name],
        False,
    )
    for target in fields["auto_map"].values():
        module, name = target.split(".")
        assert f"class {name}(" in (tmp_path / f"out/{module}.py").read_text()
    assert json.loads((tmp_path / "out/generation_config.json").read_text())["use_cache"] is False


def test_buffers_keep_their_precision_when_parameters_are_rounded(checkpoint, tmp_path):
    export_hf(checkpoint, tmp_path / "out", custom=True, dtype="bfloat16")
    stored = open_tensors(tmp_path / "out")
    assert stored["layers.1.ffn.bias"].shape.dtype == np.float32
    assert stored["layers.1.mixer.input_re"].shape.dtype.name == "bfloat16"


def test_what_it_lacks_and_where_it_does_not_belong_is_refused_by_name(vocabulary, tmp_path):
    seeing = gemma(image=ImageConfig(8, 8, 4, stem_dim=4))
    _, params, _ = random_states(seeing, vocabulary.size)
    path = trained(tmp_path / "run", seeing, params, vocabulary)
    with pytest.raises(ValueError, match=r"image is ImageConfig.* for text alone; use --to stablehlo"):
        export_hf(Checkpoint.open(path), tmp_path / "out", custom=True)
    with pytest.raises(SystemExit, match=r"error: --custom is given with --to orbax; allowed: --to hf"):
        main(["--checkpoint", str(path), "--to", "orbax", "--custom", "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


GENERATE = """
import json, sys
import torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32, trust_remote_code=True)
ids = torch.tensor([json.loads(sys.argv[2])])
found = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=10, do_sample=False)
try:
    model(ids, attention_mask=torch.zeros_like(ids))
except ValueError as error:
    print(error)
print(json.dumps(found[0, ids.shape[1] :].tolist()))
"""


@pytest.mark.slow
def test_transformers_computes_the_same_logits_and_generates_the_same_text(checkpoint, vocabulary, tmp_path):
    python = parity_python()
    if python is None:
        pytest.skip("needs torch and transformers, here or in the interpreter that PARITY_PYTHON names")
    assert 0 < export_hf(checkpoint, tmp_path / "out", custom=True, reference=python) <= 1e-4
    loaded = LoadedModel.of(checkpoint)
    ids = np.array([vocabulary.bos_id, *np.random.default_rng(0).integers(300, 384, 8)], np.int32)
    document = (Tokens(ids, np.zeros(len(ids), np.float32)),)
    (ours,) = complete(Decoder(loaded), [document], [Sampling(temperature=0)], num_tokens=10)
    command = [python, "-c", GENERATE, str(tmp_path / "out"), json.dumps(ids.tolist())]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    refusal, found = done.stdout.strip().splitlines()[-2:]
    assert refusal.startswith("attention_mask hides tokens; give rows of one length")
    assert json.loads(found)[: len(ours.ids)] == ours.ids
