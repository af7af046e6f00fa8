"""Gemma 3 with pictures computes what HF transformers computes."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest

from configs import gemma3
from configs.schema import parse
from data.elements import Document
from model.config import ModelConfig
from model.model import join
from serving.interchange.expressible import unequal
from serving.interchange.files import ModelFolder
from serving.interchange.gemma3_images import Gemma3
from serving.interchange.stacking import flat
from serving.interchange.tensors import write_part
from tests.serving.interchange import references
from tests.serving.interchange.folders import REFERENCES, seeing_gemma
from tests.serving.interchange.references import assert_close, load, logits_by_pieces, next_token_loss

FOLDER = REFERENCES / "gemma3"
FIELDS = json.loads((FOLDER / "config.json").read_text())
pytestmark = pytest.mark.usefixtures("quick_compilation")


imported = functools.cache(lambda: load(FOLDER))


@functools.cache
def expected():
    return np.load(FOLDER / "expected.npz")


def document(i: int) -> Document:
    return references.document(expected()[f"tokens/{i}"], expected()[f"pixels/{i}"])


rows = functools.partial(references.rows, side=32)


@jax.jit
def logits_of(params, batch):
    model = join(imported()[1], params, {})
    return model.token_logits(model(batch).hidden_BTD)


def test_logits_of_packed_and_of_padded_documents_equal_those_of_each_alone():
    first, second = document(0), document(1)
    wanted = [expected()[f"logits/{i}"] for i in (0, 1)]
    assert len(wanted[0]) > 4 * ModelFolder(FOLDER).config.attention("local").window
    params = imported()[2]
    packed = logits_of(params, rows((first, second), slots=60))[0]
    assert_close(packed[: sum(map(len, wanted))], np.concatenate(wanted))
    padded = logits_of(params, rows((second,), (first,), slots=40))
    assert_close(padded[0, : len(wanted[1])], wanted[1])
    assert_close(padded[1, : len(wanted[0])], wanted[0])


def test_a_picture_is_seen_whole_by_each_of_its_slots():
    """Causal attention alone would give other logits."""
    batch = rows((document(0),), slots=36)
    causal = dataclasses.replace(batch, span_ids=np.zeros_like(batch.span_ids))
    apart = np.abs(logits_of(imported()[2], causal) - logits_of(imported()[2], batch))[0].max(1)
    assert apart[4] > 0.01  # the picture's first slot
    assert apart[:4].max() < 1e-5


def test_loss_and_gradients_equal_those_of_the_reference():
    folder, graph, params, _ = imported()
    batch = rows((document(0), document(1)), slots=60)

    def loss_of(params):
        model = join(graph, params, {})
        return next_token_loss(model.token_logits(model(batch).hidden_BTD)[0], batch)

    loss, gradients = jax.jit(jax.value_and_grad(loss_of))(params)
    assert loss == pytest.approx(float(expected()["loss"]), rel=1e-5)
    ours, compared = {path: np.asarray(leaf) for path, leaf in flat(gradients).items()}, 0
    wanted = {name.removeprefix("gradient/"): value for name, value in expected().items() if "gradient/" in name}
    for entry in folder.architecture.entries(folder.config):
        own = entry.theirs.replace("language_model.model.", "model.language_model.")
        own = own.replace("vision_tower.vision_model.", "model.vision_tower.")
        own = own.replace("multi_modal_projector.", "model.multi_modal_projector.")
        got = write_part(entry, ours[entry.ours])
        assert np.linalg.norm(got - wanted[own]) <= 1e-4 * np.linalg.norm(wanted[own]) + 1e-7, entry.theirs
        compared += "image/" in entry.ours
    assert compared == 7 + 3 * 16
    assert len(wanted) == len(list(folder.architecture.entries(folder.config)))


@pytest.mark.parametrize("cuts", [(9, 19, 23), (8, 23)])
def test_a_document_read_through_caches_has_the_same_logits(cuts):
    """Pieces that begin and end at pictures or inside text, then one by one, past the windows of local layers."""
    folder, graph, params, _ = imported()
    found = logits_by_pieces(folder.config, graph, (params, {}), rows((document(0),), slots=36), cuts)
    assert_close(found, expected()["logits/0"])


# ---- configs


def without(fields, *names):
    return {name: value for name, value in fields.items() if name not in names}


def test_the_config_comes_back():
    config = Gemma3().read_config(FIELDS)
    written = Gemma3().write_config(config)
    assert Gemma3().read_config(written) == config
    for part in ("text_config", "vision_config"):
        assert FIELDS[part].items() >= written[part].items()
    assert (config.image.num_patches, config.image.num_slots, config.image.num_layers) == (64, 4, 3)


def test_what_released_configs_leave_out_is_known():
    """The whole text and vision section of the 4b, apart from names and tokens."""
    rope = {"factor": 8.0, "rope_type": "linear"}
    text = {"hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text", "num_hidden_layers": 34}
    vision = {"hidden_size": 1152, "image_size": 896, "intermediate_size": 4304, "num_attention_heads": 16}
    vision |= {"model_type": "siglip_vision_model", "num_hidden_layers": 27, "patch_size": 14, "vision_use_head": False}
    text |= {"rope_scaling": rope, "sliding_window": 1024}
    given = {"model_type": "gemma3", "text_config": text, "vision_config": vision, "torch_dtype": "bfloat16"}
    given |= {"boi_token_index": 255_999, "eoi_token_index": 256_000, "eos_token_id": [1, 106]}
    ours = parse(ModelConfig, gemma3.model("4b"))
    assert unequal(Gemma3().read_config(given), ours) == []
    assert Gemma3().text_fields(text)["vocab_size"] == 262_208


VISION = FIELDS["vision_config"]
TEXT_FIELDS = FIELDS["text_config"]
REFUSED = {
    "tie_word_embeddings is False": {"tie_word_embeddings": False},
    "hidden_act is 'gelu'": {"vision_config": VISION | {"hidden_act": "gelu"}},
    "num_channels is 1": {"vision_config": VISION | {"num_channels": 1}},
    "model_type is 'clip_vision_model'": {"vision_config": VISION | {"model_type": "clip_vision_model"}},
    "mm_tokens_per_image is 5 with an image_size of 32": {"mm_tokens_per_image": 5},
    "mm_tokens_per_image is 9 with an image_size of 32": {"mm_tokens_per_image": 9},
    "image_size of 30": {"vision_config": VISION | {"image_size": 30}},
    r"image_size of \[32, 32\]": {"vision_config": VISION | {"image_size": [32, 32]}},
    "window_size is not understood for vision_config": {"vision_config": VISION | {"window_size": 2}},
    "audio_config is not understood for gemma3": {"audio_config": {}},
    "attention_bias is True": {"text_config": TEXT_FIELDS | {"attention_bias": True}},
    "mm_tokens_per_image is 4 and sliding_window 3": {"text_config": TEXT_FIELDS | {"sliding_window": 3}},
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_this_stack_cannot_express_is_refused_by_its_name(message):
    with pytest.raises(ValueError, match=message):
        Gemma3().read_config(FIELDS | REFUSED[message])


def test_a_picture_that_is_no_square_or_wider_than_the_window_is_not_written():
    config = seeing_gemma()
    wide = dataclasses.replace(config, image=dataclasses.replace(config.image, width=32, pool=4))
    with pytest.raises(ValueError, match=r"image\.height is 16 and image\.width 32"):
        Gemma3().write_config(wide)
    fine = dataclasses.replace(config, image=dataclasses.replace(config.image, pool=1))
    with pytest.raises(ValueError, match="image makes 16 slots of a picture and sliding_window 5"):
        Gemma3().write_config(fine)
