"""What is read from a compiled program's text."""

import jax
import jax.numpy as jnp
import pytest

from smallvit_jax.training.hlo import read_program, size_in_bytes


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("f32[2,3]{1,0}", 24),
        ("bf16[]", 2),
        ("pred[7]{0:T(256)}", 7),
        ("f32[4]{0}, s32[2]{0}", 24),
        ("f32[4]{0:T(128)S(1)}, s32[2]{0}", 8),
        ("token[]", 0),
    ],
)
def test_sizes_of_shapes(shape, expected):
    assert size_in_bytes(shape) == expected


def test_bytes_anywhere_include_other_memories():
    assert size_in_bytes("f32[4]{0:T(128)S(1)}", anywhere=True) == 16


PROGRAM = """\
HloModule jit_run

FileNames
1 "/somewhere/site-packages/smallvit_jax/models/vit.py"
2 "/somewhere/site-packages/flax/nnx.py"

FunctionNames
1 "f"

FileLocations
1 {file_name_id=2 function_name_id=1 line=3}
2 {file_name_id=1 function_name_id=1 line=70}

StackFrames
1 {file_location_id=2 parent_frame_id=1}
2 {file_location_id=1 parent_frame_id=1}

%body (p: (s32[], f32[100])) -> (s32[], f32[100]) {
  %p = (s32[], f32[100]{0}) parameter(0)
  %x = f32[100]{0} get-tuple-element(%p), index=1
  %y = f32[100]{0} tanh(%x), metadata={op_name="tanh" stack_frame_id=2}
  %s = f32[100]{0} all-reduce(%y), replica_groups={}, to_apply=%add, metadata={stack_frame_id=1}
  ROOT %t = (s32[], f32[100]{0}) tuple(%x, %s)
}

%condition (p.1: (s32[], f32[100])) -> pred[] {
  %p.1 = (s32[], f32[100]{0}) parameter(0)
  %six = s32[] constant(6)
  ROOT %less = pred[] compare(%i, %six), direction=LT
}

ENTRY %main (a: f32[100]) -> f32[100] {
  %a = f32[100]{0} parameter(0)
  %loop = (s32[], f32[100]{0}) while(%a), condition=%condition, body=%body
  %c = (f32[100]{0}, f32[100]{0}, u32[]) copy-start(%a)
  ROOT %r = f32[100]{0} get-tuple-element(%loop), index=1
}
"""


def test_loops_count_as_often_as_they_run_and_lines_are_the_package_s():
    found = read_program(PROGRAM)
    assert found.collectives == {"all-reduce": 6}
    assert found.collective_bytes == {"all-reduce": 6 * 400}
    assert found.bytes["models/vit.py:70"] == 6 * 2 * 800  # tanh and all-reduce read and write 400
    assert found.bytes["copies between memories"] == 800


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("(f32[100]{0}, f32[800]{0}) all-gather-start(%a), dimensions={0}", 3200),
        ("f32[800]{0} all-gather(%a), dimensions={0}", 3200),
        ("(f32[100]{0}, f32[50]{0}) all-reduce-start(%a, %b), to_apply=%add", 600),
    ],
)
def test_collectives_count_their_results(line, expected):
    text = f"ENTRY %main (a: f32[100]) -> f32[800] {{\n  %c = {line}\n}}\n"
    (counted,) = read_program(text).collective_bytes.values()
    assert counted == expected


def test_product_in_a_scan_is_counted_like_its_operands():
    def apply(weights, x):
        return jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, weights)[0]

    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((6, 128, 128), (64, 128))]
    program = jax.jit(apply).lower(*shapes).compile()
    moved = sum(read_program(program.as_text()).bytes.values())
    least = 6 * 4 * (128 * 128 + 2 * 64 * 128)
    assert least <= moved <= 3 * least  # a weight, and the state in and out, in each of six rounds


def test_what_runs_beside_the_program_counts_once():
    """Gathers on a TPU's SparseCores: started, updated and done."""
    text = """\
%beside (p: f32[100]) -> f32[10] {
  %p = f32[100]{0} parameter(0)
  ROOT %g = f32[10]{0} gather(%p), slice_sizes={1}
}

ENTRY %main (a: f32[100]) -> f32[10] {
  %a = f32[100]{0} parameter(0)
  %start = ((f32[100]{0}), f32[10]{0}, u32[]) async-start(%a), calls=%beside
  %update = ((f32[100]{0}), f32[10]{0}, u32[]) async-update(%start)
  ROOT %done = f32[10]{0} async-done(%update)
}
"""
    assert sum(read_program(text).bytes.values()) == 2 * 40  # read and written


def test_part_of_a_tuple_may_be_named_by_its_number():
    text = """\
ENTRY %main (a: (f32[100], (s32[], bf16[10,10]), f32[20])) -> f32[20] {
  %a = (f32[100]{0}, (s32[], bf16[10,10]{1,0:T(8,128)(2,1)}), /*index=2*/f32[20]{0}) parameter(0)
  ROOT %r = f32[20]{0} tanh(%a#2)
}
"""
    assert sum(read_program(text).bytes.values()) == 2 * 80
