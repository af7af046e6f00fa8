"""From collectives to seconds, and from figures to a plan, a table, a picture and remedies."""

import json

import pytest
from rich.console import Console

from sharding.plan.collectives import Collective, collectives, sent_bytes
from sharding.plan.hlo import parse
from sharding.plan.loops import runs
from sharding.plan.machines import GB, GIB, MACHINES
from sharding.plan.picture import draw
from sharding.plan.plan import Memory, Plan, plan_of
from sharding.plan.remedies import remedies
from sharding.plan.report import show, write_json
from sharding.plan.roofline import cost_of, fast_bandwidth
from tests.sharding.plan.machines import Chip, mesh_of, plan, torus

V5P, H200 = MACHINES["v5p"], MACHINES["h200"]
GATHER = """ENTRY %main (w: f32[16,64]) -> f32[64,64] {
  %w = f32[16,64]{1,0} parameter(0)
  %start = (f32[16,64]{1,0}, f32[64,64]{1,0}) all-gather-start(%w), replica_groups=[2,4]<=[8], dimensions={0}
  %busy = f32[16,64]{1,0} sine(%w)
  %done = f32[64,64]{1,0} all-gather-done(%start)
  %sum = f32[64,64]{1,0} all-reduce(%done), replica_groups=[4,2]<=[2,4]T(1,0), to_apply=%add
  %ring = f32[64,64]{1,0} collective-permute(%sum), source_target_pairs={{0,1},{1,2},{2,3},{3,0},{4,5},{5,4}}
  ROOT %alone = f32[64,64]{1,0} all-reduce(%ring), replica_groups=[8,1]<=[8], to_apply=%add
}
"""


def collective(kind="all-reduce", members=range(4), payload=4 * GB):
    members = tuple(members)
    return Collective(
        kind, "", ("fsdp",), len(members), members, payload, sent_bytes(kind, payload, len(members)), 1, False, ""
    )


@pytest.mark.parametrize(
    ("kind", "sent"),
    [
        ("all-gather", 3),
        ("reduce-scatter", 3),
        ("all-reduce", 6),
        ("all-to-all", 3),
        ("ragged-all-to-all", 3),
        ("collective-permute", 4),
    ],
)
def test_bytes_that_each_of_four_devices_sends_of_four(kind, sent):
    assert sent_bytes(kind, 4, 4) == sent


def test_collectives_tell_axes_members_and_what_runs_beside_them():
    program = parse(GATHER)
    found = {c.kind: c for c in collectives(program, runs(program), {"data": 2, "fsdp": 4})}
    assert set(found) == {"all-gather", "all-reduce", "collective-permute"}  # a group of one sends nothing
    gather, summed, ring = (found[kind] for kind in ("all-gather", "all-reduce", "collective-permute"))
    assert (gather.axes, gather.members, gather.sent, gather.overlapped) == (("fsdp",), (0, 1, 2, 3), 12288, True)
    assert (summed.axes, summed.members, summed.sent, summed.overlapped) == (("data",), (0, 4), 16384, False)
    assert (ring.axes, ring.members, ring.sent) == (("fsdp",), (0, 1, 2, 3), 16384)


WRAPPED = """%inside (p: f32[64,64]) -> f32[16,64] {
  %p = f32[64,64]{1,0} parameter(0)
  ROOT %scattered = f32[16,64]{1,0} reduce-scatter(%p), replica_groups=[2,4]<=[8], dimensions={0}, to_apply=%add
}

ENTRY %main (g: f32[64,64]) -> f32[16,64] {
  %g = f32[64,64]{1,0} parameter(0)
  %start = ((f32[64,64]{1,0}), f32[16,64]{1,0}, u32[]) async-start(%g), calls=%inside
BUSY
  ROOT %done = f32[16,64]{1,0} async-done(%start), calls=%inside
}
"""


@pytest.mark.parametrize("busy", [True, False])
def test_a_wrapped_collective_overlaps_what_runs_beside_its_wrapper(busy):
    program = parse(WRAPPED.replace("BUSY", "  %busy = f32[64,64]{1,0} sine(%g)" if busy else ""))
    found = collectives(program, runs(program), {"data": 2, "fsdp": 4})
    assert {(c.kind, c.sent, c.overlapped) for c in found} == {("reduce-scatter", 12288, busy)}
    assert sum(c.times for c in found) == 1


@pytest.mark.parametrize(
    ("members", "links"),
    [
        ([(0, 0, z) for z in range(4)], 2),  # a whole side of four is closed by light
        ([(0, 0, z) for z in range(2)], 1),  # a part of it is a line
        ([(0, y, 0) for y in range(2)], 1),  # a whole side of two is one
        ([(0, y, z) for y in range(2) for z in range(4)], 3),
    ],
)
def test_a_torus_offers_the_links_of_every_side_that_a_group_spans(members, links):
    devices = torus(2, 2, 4)
    assert fast_bandwidth([Chip(at) for at in members], devices, V5P) == links * 100 * GB


def test_only_whole_sides_of_sixteen_are_closed_in_a_v6e():
    v6e = MACHINES["v6e"]
    assert fast_bandwidth([Chip((0, y)) for y in range(8)], torus(8, 8), v6e) == 100 * GB
    assert fast_bandwidth([Chip((0, y)) for y in range(16)], torus(8, 16), v6e) == 200 * GB


def test_a_permutation_uses_one_link_of_each_device():
    cost = cost_of(collective("collective-permute"), torus(1, 1, 4), [0] * 4, V5P)
    assert (cost.fast, cost.slow) == (pytest.approx(4 / 100), 0)


def test_within_a_slice_only_the_fast_network_works():
    cost = cost_of(collective(), torus(1, 1, 4), [0] * 4, V5P)
    assert (cost.fast, cost.slow) == (pytest.approx(6 / 200), 0)


def test_between_slices_what_one_device_of_each_holds_crosses():
    """A sum of 4 GB over two slices of two: each device brings half of it across and back."""
    cost = cost_of(collective(), torus(1, 1, 2, slices=2), [0, 0, 1, 1], V5P)
    assert cost.fast == pytest.approx(2 * 4 / 2 / 100)
    assert cost.slow == pytest.approx(2 * 4 / 2 / 2 / 6.25)


def test_between_hosts_of_one_device_each_everything_crosses():
    devices = [Chip((0,), process_index=i, platform="cuda") for i in range(4)]
    cost = cost_of(collective("collective-permute"), devices, [0, 1, 2, 3], H200)
    assert (cost.fast, cost.slow) == (0, pytest.approx(4 / 50))


def test_a_plan_puts_program_mesh_and_machine_together():
    facts = {name: getattr(plan(), name) for name in ("title", "topology", "rows", "slots", "parameters")}
    found = plan_of(
        GATHER,
        mesh_of(torus(1, 1, 4, slices=2), data=2, fsdp=4),
        V5P,
        peak_bytes=8 * GIB,
        argument_bytes={"parameters": 3 * GIB},
        hardware_flops=8 * 459e12,
        model_flops=4 * 459e12,
        compile_seconds=1.0,
        **facts,
    )
    assert found.memory == Memory({"parameters": 3 * GIB}, 5 * GIB, 95 * GIB)
    assert found.seconds.compute == 1.0
    lines = {(line.kind, line.axes): line for line in found.traffic}
    assert lines["all-reduce", "data"].network == "slow"
    assert found.seconds.slow_network == pytest.approx(16384 / 6.25e9)
    assert lines["all-gather", "fsdp"].overlapped == 1
    assert found.seconds.exposed == pytest.approx(16384 / 6.25e9 + 16384 / 100e9)
    assert Plan.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_a_step_takes_its_slowest_resource_and_what_nothing_runs_beside():
    found = plan()
    assert found.seconds.bound == "compute"
    assert found.seconds.step == 2.25
    assert found.mfu == pytest.approx(0.5 * 2 / 2.25)
    assert (found.memory.peak, found.memory.fits) == (16 * GIB, True)


def test_the_report_says_what_takes_memory_and_time(tmp_path, capsys):
    show(plan(), [], Console(width=160))
    told = capsys.readouterr().out
    for part in (
        "small.py on v5p:2x2x1: 4 x TPU v5p, mesh data 2 x fsdp 2",
        "temporaries",
        "16.00",
        "MFU 44.4%",
        "67%",
    ):
        assert part in told, part
    write_json(plan(), tmp_path / "plan.json")
    assert Plan.from_dict(json.loads((tmp_path / "plan.json").read_text())) == plan()
    draw(plan(), tmp_path / "plan.png")
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")


def test_what_does_not_fit_is_told_what_to_try_first(capsys):
    big = plan(temporaries=100 * GIB)
    assert not big.memory.fits
    tips = remedies(big.memory, big.mesh, phase="teach", model="small", rows=8, remat="none", accumulate=1)
    told = {tip.field: (tip.value, tip.peak / GIB) for tip in tips}
    assert told["models.small.remat"] == ("'block'", pytest.approx(26))
    assert told["phases.teach.accumulate"] == ("2", pytest.approx(58))
    assert told["mesh.context"] == ("2, mesh.data = 1 and half of the batch_size", pytest.approx(56))
    assert told["--topology"] == ("8 devices with mesh.fsdp = 4", pytest.approx(53))
    assert told["mesh.fsdp"] == ("4 and mesh.data = 1", pytest.approx(103))
    assert tips[-1].field == "mesh.fsdp"  # it saves, but not enough
    show(big, tips)
    assert "does not fit; to try first:" in capsys.readouterr().out


def test_nothing_is_proposed_that_has_been_done():
    memory = Memory({"parameters": 60 * GIB, "optimiser": 60 * GIB}, 1 * GIB, 95 * GIB)
    mesh = {"data": 1, "fsdp": 3, "expert": 1, "context": 1, "tensor": 1}
    tips = remedies(memory, mesh, phase="teach", model="small", rows=3, remat="block", accumulate=1)
    assert [(tip.field, tip.value) for tip in tips] == [
        ("--topology", "6 devices with mesh.fsdp = 6 and twice the batch_size")
    ]
