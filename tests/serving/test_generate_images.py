"""Text about pictures: what is drawn follows from the whole prompt as a full forward pass sees it."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest

from configs.schema import parse
from data.elements import Tokens
from data.image_processing import PanAndScan, load_picture
from data.image_prompt import image_prompt
from data.layout import cost_of
from data.vocabulary import Vocabulary
from model.config import ModelConfig, SiglipConfig
from serving.decoder import Decoder
from serving.generate import complete, main
from serving.import_hf import import_hf
from serving.model import LoadedModel
from serving.prompts import as_rows
from serving.sampling import Sampling
from tests.model.weights import random_states
from tests.serving.interchange.folders import foreign_tokenizer, model_folder
from tests.train.tiny_config import TEXT, model
from train.checkpoint import Checkpoint

PHOTOS = Path("tests/assets/photos")
WIDE, TALL = PHOTOS / "wide.jpg", PHOTOS / "tall.jpg"
GREEDY = Sampling(temperature=0)
pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def gemma3(tmp_path_factory):
    """(checkpoint folder, loaded): the reference's random weights with a tokenizer that has the pieces."""
    folder = tmp_path_factory.mktemp("gemma3")
    pieces = ["<start_of_image>", "<end_of_image>"]
    tokenizer = foreign_tokenizer(90, control_symbols=pieces, add_dummy_prefix=False)
    import_hf(model_folder(folder / "hf", "gemma3", tokenizer=tokenizer), folder / "imported")
    return folder / "imported", LoadedModel.of(Checkpoint.open(folder / "imported"))


@pytest.fixture(scope="module")
def own():
    """A model as training makes it here, with local, global and recurrent layers."""
    vocabulary = Vocabulary.train([TEXT.read_text()[:8000]], 384, num_codes=8)
    image = SiglipConfig(
        "siglip", 16, 16, patch_size=4, pool=2, encoder_dim=12, num_layers=2, hidden_dim=16, num_heads=2
    )
    config = dataclasses.replace(parse(ModelConfig, model()), robot=None, flow=None, image=image)
    return LoadedModel(config, vocabulary, {}, *random_states(config, vocabulary.size, seed=4, std=0.4))


def logprobs_of(loaded, document, ids):
    """Of the drawn ids, by one forward pass over prompt and ids."""
    whole = (*document, Tokens(np.array(ids, np.int32), np.zeros(len(ids), np.float32)))
    batch = as_rows([whole], loaded.vocabulary, cost_of(whole).slots)

    @jax.jit
    def all_logprobs(params, buffers, batch):
        module = loaded.module(params, buffers)
        logits = module.token_logits(module(batch).hidden_BTD[0])[:, : loaded.vocabulary.text_size]
        return jax.nn.log_softmax(logits)

    before = np.arange(cost_of(document).slots - 1, cost_of(whole).slots - 1)
    return np.asarray(all_logprobs(loaded.params, loaded.buffers, batch))[before, ids]


# Pieces as long as the whole prompt, and so short that pictures are longer.
@pytest.mark.parametrize(("which", "piece"), [("gemma3", 256), ("gemma3", 3), ("own", 6)])
def test_prompts_with_other_numbers_of_pictures_stand_side_by_side(which, piece, request):
    loaded = request.getfixturevalue(which)
    loaded = loaded[1] if which == "gemma3" else loaded
    wide, tall = load_picture(WIDE), load_picture(TALL)
    asked = [("We know", [wide, tall], PanAndScan()), ("Speak, speak", [], None), ("no more", [tall], None)]
    prompts = [image_prompt(text, seen, loaded.vocabulary, loaded.image_form, cut) for text, seen, cut in asked]
    assert [cost_of(prompt).images for prompt in prompts] == [6, 0, 1]
    for prompt, completion in zip(prompts, complete(Decoder(loaded), prompts, [GREEDY] * 3, num_tokens=4), strict=True):
        wanted = logprobs_of(loaded, prompt, completion.ids)
        np.testing.assert_allclose(completion.logprobs, wanted, atol=2e-4)


def test_the_command_writes_about_the_pictures_that_it_is_given(gemma3, capsys):
    folder, loaded = gemma3
    text = "To<start_of_image> be"
    main([str(folder), text, "--num_tokens", "3", "--temperature", "0", "--image", str(WIDE), "--pan_and_scan"])
    prompt = image_prompt(text, [load_picture(WIDE)], loaded.vocabulary, loaded.image_form, PanAndScan())
    assert cost_of(prompt).images == 3
    (wanted,) = complete(Decoder(loaded), [prompt], [GREEDY], num_tokens=3)
    assert capsys.readouterr().out == f"{text}{wanted.text}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["To be", "--image", "nowhere.png"], "nowhere.png is no picture that can be read"),
        (["To be", "--pan_and_scan"], "--pan_and_scan is given without --image"),
        (["<start_of_image> to <start_of_image>", "--image", str(WIDE)], "has 2 times '<start_of_image>' for 1 pict"),
    ],
)
def test_the_command_says_what_is_wrong(arguments, message, gemma3):
    with pytest.raises(SystemExit, match=f"error: .*{message}"):
        main([str(gemma3[0]), *arguments])


def test_a_model_without_eyes_says_so(tmp_path):
    import_hf(model_folder(tmp_path / "hf", "gemma3_text", tokenizer=foreign_tokenizer()), tmp_path / "out")
    with pytest.raises(SystemExit, match=r"error: --image is .*wide\.jpg, but this model sees no pictures"):
        main([str(tmp_path / "out"), "To be", "--image", str(WIDE)])
