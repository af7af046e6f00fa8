"""Each published size of Gemma 3, scaled down, computes what HF transformers computes."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from configs import gemma3
from configs.schema import parse
from model.config import ModelConfig
from model.model import join
from serving.interchange.expressible import unequal
from serving.interchange.stacking import flat
from serving.interchange.tensor_files import Shape, create_tensors
from serving.interchange.tensors import write_part
from tests.serving.interchange.folders import REFERENCES
from tests.serving.interchange.named_weights import pictures, sketch, weight
from tests.serving.interchange.references import assert_close, document, load, logits_by_pieces, next_token_loss, rows

DIVISOR, PERIOD = 32, 6
pytestmark = pytest.mark.usefixtures("quick_compilation")


class Reference:
    """A size's model and the two documents that transformers read with it."""

    def __init__(self, size, scratch):
        self.size, source = size, REFERENCES / "sizes" / size
        shutil.copyfile(source / "config.json", scratch / "config.json")
        shapes = json.loads((source / "shapes.json").read_text())
        shapes = {name: Shape(tuple(dims), np.dtype(np.float32)) for name, dims in shapes.items()}
        for name, tensor in create_tensors(scratch, shapes, 1 << 40).items():
            tensor.write(weight(name, tensor.shape.dims))
        self.folder, self.graph, self.params, _ = load(scratch)
        self.expected, image = np.load(source / "expected.npz"), self.folder.config.image
        self.side = image.height if image else 0
        self.documents = [
            document(self.expected[f"tokens/{i}"], pictures(i, num, self.side) if image else ())
            for i, num in enumerate((2, 1))
        ]
        self.wanted = [self.expected[f"logits/{i}"] for i in (0, 1)]

    def rows(self, *packed, slots):
        return rows(*packed, slots=slots, side=self.side)

    def logits(self, params, batch):
        model = join(self.graph, params, {})
        return model.token_logits(model(batch).hidden_BTD)


@pytest.fixture(scope="module", params=list(gemma3.SIZES))
def reference(request, tmp_path_factory):
    return Reference(request.param, tmp_path_factory.mktemp(request.param))


def scaled_down(config, width_divisor):
    """Heads, ratios, RoPE, patches and pooling stay; a period of layers and what is left over by whole ones."""

    def attention(section):
        section = dataclasses.replace(
            section,
            head_dim=section.head_dim // DIVISOR,
            query_scale=(round(section.query_scale**-2) // DIVISOR) ** -0.5,
        )
        return dataclasses.replace(section, window=section.window // DIVISOR) if section.window else section

    image = config.image and dataclasses.replace(
        config.image,
        height=config.image.height // 8,
        width=config.image.width // 8,
        encoder_dim=config.image.encoder_dim // DIVISOR,
        hidden_dim=config.image.hidden_dim // DIVISOR,
        num_layers=2,
        num_heads=2,
    )
    return dataclasses.replace(
        config,
        model_dim=config.model_dim // width_divisor,
        num_layers=PERIOD + config.num_layers % PERIOD,
        local_attention=attention(config.local_attention),
        global_attention=attention(config.global_attention),
        dense=dataclasses.replace(config.dense, hidden_dim=config.dense.hidden_dim // width_divisor),
        image=image,
    )


def test_the_model_is_the_committed_config_scaled_down(reference):
    published = parse(ModelConfig, gemma3.model(reference.size))
    config = reference.folder.config
    assert unequal(scaled_down(published, published.model_dim // config.model_dim), config) == []


def test_logits_of_packed_and_of_padded_documents_equal_those_of_each_alone(reference):
    first, second = reference.documents
    wanted = reference.wanted
    assert len(wanted[0]) >= 60 > reference.folder.config.attention("local").window
    logits = jax.jit(reference.logits)
    packed = logits(reference.params, reference.rows((first, second), slots=100))[0]
    assert_close(packed[: sum(map(len, wanted))], np.concatenate(wanted))
    padded = logits(reference.params, reference.rows((second,), (first,), slots=80))
    assert_close(padded[0, : len(wanted[1])], wanted[1])
    assert_close(padded[1, : len(wanted[0])], wanted[0])


def test_a_document_read_through_caches_has_the_same_logits(reference):
    """Two pieces that are cut inside text, then one by one, past the windows of local layers."""
    row, states = reference.rows((reference.documents[0],), slots=80), (reference.params, {})
    found = logits_by_pieces(reference.folder.config, reference.graph, states, row, cuts=(24, 52))
    assert_close(found, reference.wanted[0])


def test_loss_and_gradients_equal_those_of_the_reference(reference):
    batch = reference.rows(tuple(reference.documents), slots=100)
    value_and_grad = jax.jit(
        jax.value_and_grad(lambda params: next_token_loss(reference.logits(params, batch)[0], batch))
    )
    loss, gradients = value_and_grad(reference.params)
    assert loss == pytest.approx(float(reference.expected["loss"]), rel=1e-5)
    ours, compared = {path: np.asarray(leaf) for path, leaf in flat(gradients).items()}, 0
    for entry in reference.folder.architecture.entries(reference.folder.config):
        wanted = reference.expected[f"gradient/{_stored(entry.theirs, reference.expected)}"]
        found = sketch(_stored(entry.theirs, reference.expected), write_part(entry, ours[entry.ours]))
        apart = np.sqrt(np.mean(np.square(found[1:] - wanted[1:])))  # an estimate of the difference's norm
        assert apart <= 1e-4 * wanted[0] + 1e-7, entry.theirs
        assert found[0] == pytest.approx(wanted[0], rel=1e-4, abs=1e-7), entry.theirs
        compared += 1
    assert compared == sum(name.startswith("gradient/") for name in reference.expected.files)


def _stored(name, expected):
    """Files have one of two prefixes for the encoder."""
    other = name.replace("vision_tower.vision_model.", "vision_tower.")
    return name if f"gradient/{name}" in expected else other
