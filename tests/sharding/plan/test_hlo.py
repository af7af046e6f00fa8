"""Reading the text of compiled programs: the forms that CPUs, TPUs and GPUs write."""

import pytest

from sharding.plan.hlo import bytes_of, parse
from sharding.plan.loops import runs
from sharding.plan.work import matmul_flops, traffic_bytes, work

LOOP = """HloModule jit_f, is_scheduled=true

%fused (p0: f32[4,8,8], p1: s32[]) -> f32[1,8,8] {
  %p0 = f32[4,8,8]{2,1,0} parameter(0)
  %p1 = s32[] parameter(1)
  %zero.1 = s32[] constant(0)
  ROOT %slice = f32[1,8,8]{2,1,0} dynamic-slice(%p0, %p1, %zero.1, %zero.1), dynamic_slice_sizes={1,8,8}
}

%body (state: (s32[], f32[8,8], f32[4,8,8])) -> (s32[], f32[8,8], f32[4,8,8]) {
  %state = (s32[], f32[8,8]{1,0:T(8,128)}, f32[4,8,8]{2,1,0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %x = f32[8,8]{1,0} get-tuple-element(%state), index=1
  %w = f32[4,8,8]{2,1,0} get-tuple-element(%state), index=2
  %layer = f32[1,8,8]{2,1,0} fusion(%w, %i), kind=kLoop, calls=%fused
  %layer.1 = f32[8,8]{1,0} bitcast(%layer)
  %y = f32[8,8]{1,0:T(8,128)S(1)} dot(%x, %layer.1), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %one = s32[] constant(1)
  %next = s32[] add(%i, %one)
  ROOT %out = (s32[], f32[8,8]{1,0}, f32[4,8,8]{2,1,0}) tuple(%next, %y, %w)
}

%condition (state.1: (s32[], f32[8,8], f32[4,8,8])) -> pred[] {
  %state.1 = (s32[], f32[8,8]{1,0}, f32[4,8,8]{2,1,0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%state.1), index=0
  %limit = s32[] LIMIT
  ROOT %lt = pred[] compare(%i.1, %limit), direction=LT
}

ENTRY %main (x.1: f32[8,8], w.1: f32[4,8,8]) -> f32[8,8] {
  %x.1 = f32[8,8]{1,0} parameter(0)
  %w.1 = f32[4,8,8]{2,1,0} parameter(1)
  %start = s32[] constant(1)
  %init = (s32[], f32[8,8]{1,0}, /*index=2*/f32[4,8,8]{2,1,0}) tuple(%start, %x.1, %w.1)
  %loop = (s32[], f32[8,8]{1,0}, f32[4,8,8]{2,1,0}) while(%init), condition=%condition, body=%bodyKNOWN
  ROOT %result = f32[8,8]{1,0} get-tuple-element(%loop), index=1
}
"""


def program(limit="constant(4)", known=""):
    return parse(LOOP.replace("LIMIT", limit).replace("KNOWN", known))


SUGAR = """ENTRY %main (x: f32[8]) -> f32[] {
  %x = f32[8]{0} parameter(0)
  %pair = ((f32[8]{0:T(1024)}, s32[2]{0}), /*index=1*/pred[]{:T(512)}) custom-call(%x)
  ROOT %used = f32[] custom-call(%pair#0, %pair#1, %x)
}
"""


def test_elements_of_tuples_need_no_instruction_of_their_own():
    instructions = parse(SUGAR).computations["main"].instructions
    assert instructions["used"].operands == ("pair#0", "pair#1", "x")
    first, second = instructions["pair#0"], instructions["pair#1"]
    assert [array.dtype for array in first.arrays] == ["f32", "s32"]
    assert [array.dtype for array in second.arrays] == ["pred"]
    assert (second.opcode, second.operands) == ("get-tuple-element", ("pair",))


def test_a_loop_that_counts_an_element_of_its_state_has_as_many_trips():
    lines = LOOP.replace("LIMIT", "constant(4)").replace("KNOWN", "").splitlines()
    text = "\n".join(line for line in lines if "%i.1 =" not in line).replace("%i.1", "%state.1#0")
    assert runs(parse(text)).times["body"] == runs(program()).times["body"]


def test_a_program_is_computations_of_instructions_in_order():
    found = program()
    assert found.entry == "main"
    body = found.computations["body"]
    assert list(body.instructions)[:3] == ["state", "i", "x"]
    state = body.instructions["state"]
    assert [array.dims for array in state.arrays] == [(), (8, 8), (4, 8, 8)]
    assert state.bytes == 4 + 4 * 64 + 4 * 256
    assert body.root.opcode == "tuple"
    assert body.instructions["y"].arrays[0].on_chip
    assert body.instructions["layer"].called("calls") == ["fused"]


@pytest.mark.parametrize(
    ("dtype", "size"), [("f32", 4), ("bf16", 2), ("pred", 1), ("c64", 8), ("f8e4m3fn", 1), ("s4", 0.5)]
)
def test_bytes_of_every_type(dtype, size):
    assert bytes_of(dtype) == size


def test_a_text_that_is_no_program_is_refused():
    with pytest.raises(ValueError, match="no ENTRY computation; give the text of a compiled program"):
        parse("HloModule empty")


def test_trips_follow_from_the_constant_that_the_counter_is_compared_with():
    assert runs(program()).times == {"main": 1, "body": 3, "fused": 3}  # it begins at 1


def test_written_trip_counts_come_first():
    found = runs(program(known=', backend_config={"known_trip_count":{"n":"7"}}'))
    assert found.times["body"] == 7


def test_a_loop_whose_length_is_data_counts_once_and_is_told():
    found = runs(program(limit="get-tuple-element(%state.1), index=0"))
    assert (found.times["body"], found.unknown) == (1, ("loop",))


def test_flops_and_traffic_count_loops_and_slices():
    found = program()
    done = work(found, runs(found))
    assert done.matmul_flops == 3 * 2 * 8 * 8 * 8
    layer = 2 * 256 + 4  # the slice, read and written, and its place
    dot = 256 + 256  # two operands; the result stays on the chip
    add = 3 * 4
    assert done.traffic_bytes == 3 * (layer + dot + add)


@pytest.mark.parametrize(
    ("attributes", "shapes", "flops"),
    [
        ("dim_labels=bf_io->bf", ("f32[6,5]", "f32[5,7]", "f32[6,7]"), 2 * 6 * 5 * 7),
        # A batch of 3 products as a convolution over 3 places, of which each meets one of the 5 that its window covers.
        (
            "window={size=3 pad=2_2 rhs_reversal=1}, dim_labels=0bf_0oi->0bf",
            ("f32[3,6,5]", "f32[3,7,5]", "f32[5,6,7]"),
            2 * 6 * 5 * 7 * 9,
        ),
        ("window={size=3 stride=2 pad=1_1}, dim_labels=b0f_0io->b0f", ("f32[2,9,5]", "f32[3,5,7]", "f32[2,5,7]"), None),
    ],
)
def test_convolutions_count_the_elements_that_are_there(attributes, shapes, flops):
    given, kernel, out = shapes
    text = (
        f"ENTRY %main (a: {given}, b: {kernel}) -> {out} {{\n"
        f"  %a = {given} parameter(0)\n  %b = {kernel} parameter(1)\n"
        f"  ROOT %c = {out} convolution(%a, %b), {attributes}\n}}\n"
    )
    computation = parse(text).computations["main"]
    if flops is None:  # 5 places of a window of 3 on 9 elements, of which the first and the last lack one
        flops = 2 * 2 * 5 * 7 * (5 * 3 - 2)
    assert matmul_flops(computation, computation.root) == flops


def test_updates_in_place_count_what_is_written():
    text = """%fused (p0: f32[64,8], p1: f32[1,8], p2: s32[]) -> f32[64,8] {
  %p0 = f32[64,8]{1,0} parameter(0)
  %p1 = f32[1,8]{1,0} parameter(1)
  %p2 = s32[] parameter(2)
  %zero = s32[] constant(0)
  ROOT %u = f32[64,8]{1,0} dynamic-update-slice(%p0, %p1, %p2, %zero)
}

ENTRY %main (a: f32[64,8], b: f32[1,8], i: s32[]) -> f32[64,8] {
  %a = f32[64,8]{1,0} parameter(0)
  %b = f32[1,8]{1,0} parameter(1)
  %i = s32[] parameter(2)
  ROOT %f = f32[64,8]{1,0} fusion(%a, %b, %i), kind=kLoop, calls=%fused
}
"""
    found = parse(text)
    main = found.computations["main"]
    assert traffic_bytes(found, main, main.root) == 32 + 4 + 32  # the row, its place, and the row again
