"""The page of plans is what the plans say."""

import pathlib

import pytest

from docs.plan_bars import SHORT, TOLERANCE, flatness, ring_of
from docs.plans import FOLDER, GEMMA, PLANS, made, name_of, render
from sharding.plan.plan import Traffic
from tests.sharding.plan.machines import plan as plan_by_hand

ROOT = pathlib.Path(__file__).parents[2]


def test_the_page_is_what_the_command_writes():
    assert (ROOT / "docs/plans.md").read_text() == render(), "run `python -m docs.plans > docs/plans.md`"


@pytest.mark.parametrize("config", PLANS)
def test_every_planned_config_can_be_read(config):
    from configs.command import load

    plain: dict = load(str(ROOT / config)).to_dict()
    assert set(plain["train"]["phases"]) == set(plain["phases"])


def test_committed_plans_fit_their_machines():
    for config, plan in made().items():
        assert plan.topology == PLANS[config], config
        assert plan.memory.fits, config
        assert (FOLDER / f"{name_of(config)}.png").is_file(), config


def test_the_closed_form_of_a_ring_by_hand():
    """Five global layers of four key/value heads of 256, eight shards of 16,384 slots, one row: keys and values go to
    seven others three times in two bytes, with one hop in common, their gradients to eight in four."""
    config = f"{GEMMA}:4b_128k"
    mesh = {"data": 1, "fsdp": 8, "expert": 1, "context": 8, "tensor": 1}
    sent = 5 * 2 * 16_384 * 4 * 256 * ((3 * 7 - 1) * 2 + 8 * 4)
    line = Traffic("collective-permute", "ring", "context", 8, "fast", 4, 1.0, sent, 0.2, 1.0)
    ring = ring_of(config, plan_by_hand(mesh=mesh, rows=8, slots=131_072, traffic=[line]))
    assert ring is not None
    assert (ring.layers, ring.shards, ring.closed) == (5, 8, sent)
    # rows x pairs x (four FLOPs a number of each head) x (forward, backward, one product again, forward again)
    assert ring.compute == pytest.approx(5 * 8 * (131_072**2 / 2) * 4 * 8 * 256 * 4.5 / 64 / 459e12, rel=1e-4)
    assert ring.hidden == (ring.compute >= 0.2)


def test_a_model_without_global_layers_has_no_ring():
    mesh = {"data": 1, "fsdp": 4, "expert": 1, "context": 128, "tensor": 1}
    assert ring_of(SHORT, plan_by_hand(mesh=mesh)) is None


def test_rings_send_what_their_closed_form_says():
    found = {config: ring_of(config, plan) for config, plan in made().items()}
    for config, ring in found.items():
        if ring is not None:
            assert ring.sent == pytest.approx(ring.closed, rel=TOLERANCE), config


def test_memory_of_recurrent_and_local_layers_is_flat_from_1m_to_10m_slots():
    flat = flatness(made())
    if flat is not None:
        assert flat[1] <= flat[0] * (1 + TOLERANCE)
