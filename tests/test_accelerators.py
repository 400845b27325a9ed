"""What programs cost on accelerators, on programs whose bytes and FLOPs are counted by hand; none needs one."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.lax import conv_general_dilated

import jaxdiff as jd
from jaxdiff.training import make_mesh

ROOT = Path(__file__).parents[1]
ROOMS = "accelerators", "machines", "kernels", "hlo"


@pytest.fixture(scope="module")
def rooms():
    """The four files by their names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        importlib.import_module("accelerators")
        yield {name: sys.modules[name] for name in ROOMS}
    for name in ROOMS:
        del sys.modules[name]


@pytest.fixture(scope="module")
def kernels(rooms):
    return rooms["kernels"].kernels


def floats(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def text(function, *arguments):
    return jax.jit(function).lower(*arguments).compile().as_text()


def entry(*lines, **insides):
    """A program's text: the lines of its entry, and of the computations that it calls."""
    shape = "(a: f32[]) -> f32[]"
    called = "".join(
        f"%{name} {shape} {{\n" + "".join(f"  {line}\n" for line in inside) + "}\n\n"
        for name, inside in insides.items()
    )
    return f"HloModule m\n\n{called}ENTRY %main {shape} {{\n" + "".join(f"  {line}\n" for line in lines) + "}\n"


def by_name(found):
    return {kernel.name: kernel for kernel in found}


# Bytes


SCAN = entry(
    "%w = f32[12,256,256]{2,1,0} parameter(0)",
    "%x = f32[64,256]{1,0} parameter(1)",
    "%zero = s32[] constant(0)",
    "%state = (s32[], f32[64,256]{1,0}, f32[12,256,256]{2,1,0}) tuple(%zero, %x, %w)",
    "ROOT %loop = (s32[], f32[64,256]{1,0}, f32[12,256,256]{2,1,0}) while(%state), condition=%asks, body=%turn",
    slices=[
        "%all = f32[12,256,256]{2,1,0} parameter(0)",
        "%i = s32[] parameter(1)",
        "%none = s32[] constant(0)",
        "%one = f32[1,256,256]{2,1,0} dynamic-slice(%all, %i, %none, %none), dynamic_slice_sizes={1,256,256}",
        "ROOT %flat = f32[256,256]{1,0} bitcast(%one)",
    ],
    turn=[
        "%held = (s32[], f32[64,256]{1,0}, f32[12,256,256]{2,1,0}) parameter(0)",
        "%i = s32[] get-tuple-element(%held), index=0",
        "%x = f32[64,256]{1,0} get-tuple-element(%held), index=1",
        "%w = f32[12,256,256]{2,1,0} get-tuple-element(%held), index=2",
        "%one = s32[] constant(1)",
        "%next = s32[] add(%i, %one)",
        "%weights = f32[256,256]{1,0} fusion(%w, %i), kind=kLoop, calls=%slices",
        "%y = f32[64,256]{1,0} dot(%x, %weights), lhs_contracting_dims={1}, rhs_contracting_dims={0}",
        "ROOT %out = (s32[], f32[64,256]{1,0}, f32[12,256,256]{2,1,0}) tuple(%next, %y, %w)",
    ],
    asks=[
        "%held = (s32[], f32[64,256]{1,0}, f32[12,256,256]{2,1,0}) parameter(0)",
        "%i = s32[] get-tuple-element(%held), index=0",
        "%end = s32[] constant(12)",
        "ROOT %less = pred[] compare(%i, %end), direction=LT",
    ],
)


def test_a_scan_reads_of_stacked_weights_the_slice_of_each_turn(kernels):
    found = by_name(kernels(SCAN))
    assert {kernel.runs for kernel in found.values()} == {12}  # by the loop's own numbers, as TPU programs have them
    weights, x = 4 * 256 * 256, 4 * 64 * 256
    assert found["weights"].bytes == 2 * weights + 4  # read, write, the index
    assert found["y"].bytes == weights + 2 * x
    assert found["y"].work == {"default": 2.0 * 64 * 256 * 256}
    assert (found["weights"].kind, found["y"].kind) == ("copy", "product")

    def scan(weights, x):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0]

    compiled = kernels(text(scan, floats(12, 32, 32), floats(8, 32)))
    assert sum(kernel.runs * kernel.flops for kernel in compiled) == 12 * 2 * 8 * 32 * 32
    arrays = 12 * 4 * 32 * 32, 12 * 4 * 8 * 32  # of all turns: the weights, and x
    most = 3 * arrays[0] + 6 * arrays[1] + 12 * 100  # the weights sliced, written and read; the counter
    assert arrays[0] < sum(kernel.runs * kernel.bytes for kernel in compiled) < most


def test_a_gather_reads_what_it_gathers(kernels):
    take = lambda table, rows: 2 * jnp.take(table, rows, axis=0, mode="clip")
    (found,) = kernels(text(take, floats(10_000, 64), jax.ShapeDtypeStruct((32,), jnp.int32)))
    assert found.bytes == 2 * 32 * 64 * 4 + 32 * 4  # read, write, the rows


def test_of_a_vector_in_another_type_the_slices_are_read(kernels):
    """A fusion computes of an array what it uses; the type of the vector is that of what is read."""
    program = entry(
        "%all = f32[10000]{0} parameter(0)",
        "ROOT %cut = (bf16[16]{0}, bf16[24]{0}) fusion(%all), kind=kLoop, calls=%slices",
        slices=[
            "%all = f32[10000]{0} parameter(0)",
            "%half = bf16[10000]{0} convert(%all)",
            "%a = bf16[16]{0} slice(%half), slice={[8:24]}",
            "%b = bf16[24]{0} slice(%half), slice={[100:124]}",
            "ROOT %both = (bf16[16]{0}, bf16[24]{0}) tuple(%a, %b)",
        ],
    )
    (found,) = kernels(program)
    assert found.bytes == 4 * (16 + 24) + 2 * (16 + 24)


@pytest.mark.parametrize(
    ("into", "read", "written"),
    [
        ("%all", 256 * 4 + 4, 256 * 4),  # in place
        ("%zeros", 256 * 4 + 4, 12 * 256 * 4),  # into an array that the kernel itself makes
    ],
)
def test_an_update_in_place_writes_the_update(kernels, into, read, written):
    inside = [
        "%all = f32[12,256]{1,0} parameter(0)",
        "%i = s32[] parameter(1)",
        "%row = f32[256]{0} parameter(2)",
        "%none = s32[] constant(0)",
        "%zero = f32[] constant(0)",
        "%zeros = f32[12,256]{1,0} broadcast(%zero), dimensions={}",
        "%sine = f32[256]{0} sine(%row)",
        "%flat = f32[1,256]{1,0} bitcast(%sine)",
        f"ROOT %new = f32[12,256]{{1,0}} dynamic-update-slice({into}, %flat, %i, %none)",
    ]
    program = entry(
        "%all = f32[12,256]{1,0} parameter(0)",
        "%i = s32[] parameter(1)",
        "%row = f32[256]{0} parameter(2)",
        "ROOT %new = f32[12,256]{1,0} fusion(%all, %i, %row), kind=kLoop, calls=%update",
        update=inside,
    )
    (found,) = kernels(program)
    assert found.bytes == read + written


def test_what_lies_on_a_tpus_chip_moves_nothing(kernels):
    program = entry(
        "%x = f32[64,128]{1,0:T(8,128)} parameter(0)",
        "%start = (f32[64,128]{1,0:T(8,128)S(1)}, f32[64,128]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%x)",
        "%held = f32[64,128]{1,0:T(8,128)S(1)} copy-done(%start)",
        "%y = f32[64,128]{1,0:T(8,128)S(1)} exponential(%held)",
        "ROOT %z = f32[64,128]{1,0:T(8,128)} negate(%y)",
    )
    assert {name: kernel.bytes for name, kernel in by_name(kernels(program)).items()} == {
        "start": 4 * 64 * 128,
        "y": 0,
        "z": 4 * 64 * 128,
    }


def test_a_donated_argument_counts_once(rooms):
    memory = rooms["accelerators"].memory
    add = lambda x: x + 1
    for donated, total in (((), 8000), ((0,), 4000)):
        found = memory(jax.jit(add, donate_argnums=donated).lower(floats(1000)).compile())
        assert found["total"] == total


# FLOPs

NAMES = {1: ("NWC", "WIO", "NWC"), 2: ("NHWC", "HWIO", "NHWC"), 3: ("NDHWC", "DHWIO", "NDHWC")}


def multiply_adds(convolve, x, kernel) -> float:
    """Ones convolved with ones: every product adds one."""
    return float(convolve(jnp.ones(x), jnp.ones(kernel)).sum())


@pytest.mark.parametrize(
    ("axes", "stride", "dilation", "groups"),
    [(1, 1, 1, 1), (2, 1, 1, 1), (3, 1, 1, 1), (1, 2, 1, 1), (2, 1, 2, 1), (2, 1, 1, 2)],
)
def test_a_convolution_and_its_gradients_count_as_many_multiply_adds_as_they_make(
    kernels, axes, stride, dilation, groups
):
    x, kernel = (2, *[6] * axes, 4), (*[3] * axes, 4 // groups, 8)

    def convolve(x, kernel):
        settings = {"dimension_numbers": NAMES[axes], "feature_group_count": groups, "rhs_dilation": (dilation,) * axes}
        return conv_general_dilated(x, kernel, (stride,) * axes, "SAME", **settings)

    out = jax.eval_shape(convolve, floats(*x), floats(*kernel))
    gradients = lambda x, kernel, g: jax.vjp(convolve, x, kernel)[1](g)
    found = kernels(text(gradients, floats(*x), floats(*kernel), out))
    made = multiply_adds(convolve, x, kernel)
    assert [each.flops for each in found if each.kind == "convolution"] == [2 * made] * 2
    assert sum(each.flops for each in kernels(text(convolve, floats(*x), floats(*kernel)))) == 2 * made


@pytest.mark.parametrize(
    ("target", "out", "operands"),
    [
        ("Forward", "f32[2,4,6,8]", ("%x", "%k")),
        ("BiasActivationForward", "f32[2,4,6,8]", ("%x", "%k", "%bias")),
        ("BackwardInput", "f32[2,8,12,4]", ("%g", "%k")),
        ("BackwardFilter", "f32[8,3,5,2]", ("%x", "%g")),
    ],
)
def test_cudnns_convolutions_count_alike(kernels, target, out, operands):
    """Of [2, 8, 12, 4] in two groups, kernel 3 x 5 with stride 2, so that no axis is like another."""
    window = "window={size=3x5 stride=2x2 pad=0_1x1_2}, dim_labels=b01f_o01i->b01f, feature_group_count=2"
    program = entry(
        "%x = f32[2,8,12,4]{3,2,1,0} parameter(0)",
        "%k = f32[8,3,5,2]{3,2,1,0} parameter(1)",
        "%g = f32[2,4,6,8]{3,2,1,0} parameter(2)",
        "%bias = f32[8]{0} parameter(3)",
        f"ROOT %c = ({out}{{3,2,1,0}}, u8[4194304]{{0}}) custom-call({', '.join(operands)}), {window}, "
        f'custom_call_target="__cudnn$conv{target}"',
    )
    names = {"dimension_numbers": ("NHWC", "HWIO", "NHWC"), "feature_group_count": 2}
    convolve = lambda x, kernel: conv_general_dilated(x, kernel, (2, 2), ((0, 1), (1, 2)), **names)
    (found,) = kernels(program)
    assert found.kind == "convolution"
    assert found.flops == 2 * multiply_adds(convolve, (2, 8, 12, 4), (3, 5, 2, 8))
    sizes = {"%x": 2 * 8 * 12 * 4, "%k": 8 * 3 * 5 * 2, "%g": 2 * 4 * 6 * 8, "%bias": 8}
    given = {"f32[2,4,6,8]": "%g", "f32[2,8,12,4]": "%x", "f32[8,3,5,2]": "%k"}[out]
    assert found.bytes == 4 * sum(sizes[name] for name in (*operands, given))  # without the room to work in


def test_a_product_of_cublas_counts_by_the_axes_it_contracts(kernels):
    program = entry(
        "%a = bf16[4,32,64]{2,1,0} parameter(0)",
        "%b = bf16[4,16,64]{2,1,0} parameter(1)",
        "ROOT %c = (bf16[4,32,16]{2,1,0}, s8[4194304]{0}) custom-call(%a, %b), "
        'custom_call_target="__cublas$lt$matmul", backend_config={"gemm_backend_config":{"dot_dimension_numbers":'
        '{"lhs_contracting_dimensions":["2"],"rhs_contracting_dimensions":["2"],"lhs_batch_dimensions":["0"],'
        '"rhs_batch_dimensions":["0"]},"precision_config":{"operand_precision":["DEFAULT","DEFAULT"],'
        '"algorithm":"ALG_UNSET"}}}',
    )
    (found,) = kernels(program)
    assert found.work == {"half": 2.0 * 4 * 32 * 16 * 64}
    assert found.bytes == 2 * 4 * (32 * 64 + 16 * 64 + 32 * 16)


# Time


def test_float32_at_full_precision_takes_its_own_time(rooms, kernels):
    """By NVIDIA's peaks 494.5 and 67 TFLOP/s; a TPU needs six passes in place of one."""
    seconds, machines = rooms["machines"].seconds, {name: rooms["machines"].MACHINES[name] for name in ("h100", "v5e")}
    times = {}
    for precision in ("default", "highest"):
        product = lambda a, b, precision=precision: jnp.matmul(a, b, precision=precision)
        (found,) = kernels(text(product, floats(8192, 8192), floats(8192, 8192)))
        times[precision] = {name: seconds(found, machine) - machine.gap for name, machine in machines.items()}
    assert times["highest"]["h100"] / times["default"]["h100"] == pytest.approx(494.5 / 67)
    assert times["highest"]["v5e"] / times["default"]["v5e"] == pytest.approx(6)


def test_turns_that_a_program_does_not_say_must_be_given(kernels):
    grow = lambda x: jax.lax.while_loop(lambda x: jnp.sum(x) < 10, lambda x: 1.5 * x, x)
    program = text(grow, floats(1000))
    with pytest.raises(ValueError, match=r"while.* does not say how often it turns; give it as trips = \{'while"):
        kernels(program)
    for turns in (1, 7):
        found = [kernel for kernel in kernels(program, {"while": turns}) if "multiply" in kernel.name]
        assert [(kernel.runs, kernel.bytes) for kernel in found] == [(turns, 8000)]
    with pytest.raises(ValueError, match=r"trips has \['other'\], which no loop of unknown turns has in its name"):
        kernels(program, {"while": 7, "other": 7})


def test_of_a_branch_the_one_that_moves_most_counts(kernels):
    branches = {
        name: [f"%p = f32[{n}]{{0}} parameter(0)", f"ROOT %{name} = f32[{n}]{{0}} exponential(%p)"]
        for name, n in {"small": 10, "large": 1000}.items()
    }
    for order in ("%small, %large", "%large, %small"):
        program = entry(
            "%which = s32[] parameter(0)",
            "%x = f32[1000]{0} parameter(1)",
            f"ROOT %y = f32[1000]{{0}} conditional(%which, %x, %x), branch_computations={{{order}}}",
            **branches,
        )
        assert [(kernel.name, kernel.bytes) for kernel in kernels(program)] == [("large", 8000)]


def test_a_loop_whose_end_is_not_a_number_does_not_say_its_turns(kernels):
    program = SCAN.replace("%end = s32[] constant(12)", "%end = s32[] get-tuple-element(%held), index=0")
    with pytest.raises(ValueError, match="loop .* does not say how often it turns"):
        kernels(program)
    assert {kernel.runs for kernel in kernels(program, {"loop": 5})} == {5, 6}  # it asks once more than it turns


CALL = entry(
    "%q = bf16[4,256,64]{2,1,0} parameter(0)",
    "ROOT %o = bf16[4,256,64]{2,1,0} custom-call(%q), "
    'custom_call_target="__gpu$xla.gpu.triton", metadata={op_name="jit(f)/attend"}',
)


def test_a_kernel_that_shows_not_what_it_computes_must_be_charged(rooms, kernels):
    h100 = rooms["machines"].MACHINES["h100"]
    with pytest.raises(ValueError, match=r"o calls __gpu\$xla.gpu.triton \(jit\(f\)/attend\), and the program"):
        kernels(CALL)
    (found,) = kernels(CALL, charges={"attend": 2e-3})
    assert found.kind == "charged"
    assert rooms["machines"].seconds(found, h100) == pytest.approx(2e-3 + h100.gap)
    with pytest.raises(ValueError, match=r"charges has \['other'\], which no kernel whose inside is unknown"):
        kernels(CALL, charges={"attend": 2e-3, "other": 1.0})
    assert found.bytes == 2 * 2 * 4 * 256 * 64  # read and written
    with pytest.raises(ValueError, match="calls sort"):
        kernels(text(jnp.sort, floats(100)))


@pytest.mark.parametrize(
    ("batch", "length", "heads", "width", "forward", "gradient"),
    [(128, 256, 32, 8, 0.22, 0.88), (64, 1024, 6, 64, 0.27, 1.17)],
)
def test_the_charge_for_attention_is_what_it_took(rooms, batch, length, heads, width, forward, gradient):
    """cuDNN's in bfloat16 on an H100, milliseconds, within 25 %; a gradient's are those of both passes."""
    attention = lambda products: rooms["kernels"].Kernel(
        *("k", "custom-call", "attention", "forward", 1, 0),
        work={"half": products * 2.0 * batch * heads * length**2 * max(width, 64)},
    )
    out, back = (1e3 * rooms["machines"].seconds(attention(n), rooms["machines"].MACHINES["h100"]) for n in (2, 5))
    assert 1 / 1.25 < out / forward < 1.25
    assert 1 / 1.25 < (out + back) / gradient < 1.25


@pytest.mark.parametrize(
    ("name", "kind", "precision", "width"),
    [("tangent", "bf16", "half", 64), ("tangent", "f32", "default", 32), ("tangent_exact", "f32", "highest", 16)],
)
def test_an_attention_of_ours_is_known_by_its_name(kernels, name, kind, precision, width):
    """A product forward is five products of [queries, keys, width], here of 2 x 3 heads of 8."""
    q, k = f"{kind}[2,40,3,8]", f"{kind}[2,50,3,8]"
    text = entry(
        f"%q = {q}{{3,2,1,0}} parameter(0)",
        f"%k = {k}{{3,2,1,0}} parameter(1)",
        f'ROOT %o = {q}{{3,2,1,0}} custom-call(%q, %k), custom_call_target="__gpu$xla.gpu.triton", '
        f"operand_layout_constraints={{{q}{{3,2,1,0}}, {k}{{3,2,1,0}}}}, "
        f'metadata={{op_name="jit(f)/jvp()/attention_{name}/pallas_call"}}',
    )
    (found,) = kernels(text)
    assert found.kind == "attention"
    assert found.work == {precision: 5 * 2 * 2 * 3 * 40 * 50 * width}


def test_many_small_kernels_take_the_time_of_their_launches(rooms):
    """700 kernels with next to nothing to do took 6.9 ms on an H100, and no TPU waits for its host."""
    kernel = rooms["kernels"].Kernel("k", "add", "elementwise", "forward", 700, 4000, {})
    costs, machines = rooms["accelerators"].costs, rooms["machines"].MACHINES
    found = costs([kernel], machines["h100"])
    assert found["total"][0] == 700
    assert 6.9 / 1.5 < found["ms"] < 6.9 * 1.5
    assert costs([kernel], machines["v5e"])["ms"] == costs([kernel], machines["v5e"])["total"][3]


def test_a_sum_over_devices_takes_as_long_as_its_two_halves(rooms):
    """And over two nodes as docs/scaling.md has it: 2 (k-1)/k whole/near + 2 (m-1)/m (whole/k)/far."""
    wires, h100 = rooms["machines"].wires, rooms["machines"].MACHINES["h100"]
    whole = 1e9
    for count in (2, 8, 16):
        k, m = min(count, 8), max(1, count // 8)
        expected = 2 * (k - 1) / k * whole / 450e9 + 2 * (m - 1) / m * whole / k / 50e9
        assert wires(h100, "all-reduce", whole, count) == pytest.approx(expected)
        halves = wires(h100, "reduce-scatter", whole / count, count) + wires(h100, "all-gather", whole, count)
        assert halves == pytest.approx(expected)


@pytest.mark.parametrize(
    ("groups", "count"),
    [
        ("replica_groups={{0,1},{2,3},{4,5},{6,7}}", 2),
        ("replica_groups=[2,4]<=[8]", 4),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}", 4),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_0','axis_1'}", 8),
        ("replica_groups={}", 8),
    ],
)
def test_a_collective_is_known_by_its_bytes_and_its_devices(rooms, kernels, groups, count):
    program = entry(
        "%g = f32[1000]{0} parameter(0)",
        f"%start = (f32[1000]{{0}}, f32[8000]{{0}}) all-gather-start(%g), {groups}, dimensions={{0}}",
        "ROOT %all = f32[8000]{0} all-gather-done(%start)",
    ).replace("HloModule m", "HloModule m, num_partitions=8")
    (found,) = kernels(program)
    assert (found.kind, found.op, found.bytes, found.devices) == ("collective", "all-gather", 32_000, count)
    assert rooms["accelerators"].costs([found], rooms["machines"].MACHINES["v5e"])["collectives"] == {
        "all-gather": [1, 32_000]
    }


def test_a_gather_that_a_tpu_carries_on_beside_a_product_counts_once(kernels):
    """Three fusions name one channel: it begins in one, goes on beside a product of 64 x 64, and ends in one."""
    gather = "%g = f32[1000]{0} all-gather(%p), channel_id=7, replica_groups={}, dimensions={0}"
    part, dot = "%p = f32[125]{0} parameter(0)", "lhs_contracting_dims={1}, rhs_contracting_dims={0}"
    both = "(f32[64,64]{1,0}, f32[1000]{0})"
    program = entry(
        "%a = f32[125]{0} parameter(0)",
        "%x = f32[64,64]{1,0} parameter(1)",
        "%start = (f32[125]{0}, f32[1000]{0}) fusion(%a), kind=kLoop, calls=%begin",
        f"%go = {both} fusion(%a, %x), kind=kOutput, calls=%beside",
        "ROOT %done = f32[1000]{0} fusion(%a), kind=kLoop, calls=%end",
        begin=[part, gather, "ROOT %both = (f32[125]{0}, f32[1000]{0}) tuple(%p, %g)"],
        beside=[
            *(part, gather, "%x = f32[64,64]{1,0} parameter(1)"),
            f"%y = f32[64,64]{{1,0}} dot(%x, %x), {dot}",
            f"ROOT %both = {both} tuple(%y, %g)",
        ],
        end=[part, "ROOT " + gather],
    ).replace("HloModule m", "HloModule m, num_partitions=8")
    found = kernels(program)
    assert [(kernel.op, kernel.bytes) for kernel in found if kernel.kind == "collective"] == [("all-gather", 4_000)]
    (product,) = (kernel for kernel in found if kernel.kind == "product")
    assert (product.name, product.flops) == ("go", 2 * 64**3)


def test_no_machine_is_asked_for_a_precision_that_it_has_not(rooms, kernels):
    program = entry(
        "%a = f64[8,8]{1,0} parameter(0)",
        "ROOT %b = f64[8,8]{1,0} dot(%a, %a), lhs_contracting_dims={1}, rhs_contracting_dims={0}",
    )
    (found,) = kernels(program)
    with pytest.raises(ValueError, match=r"precision \['double'\], which a TPU v5e does not"):
        rooms["machines"].seconds(found, rooms["machines"].MACHINES["v5e"])
    program = program.replace("f64", "c64")
    with pytest.raises(ValueError, match="operands of c64, whose speed is not known"):
        kernels(program)


# Origins, and our own programs


def test_a_kernel_comes_from_the_last_of_its_instructions_origins(kernels):
    names = {
        "forward": "jit(update)/jvp()/tanh",
        "backward": "jit(update)/transpose(jvp())/mul",
        "optimizer": "jit(update)/optimizer/mul",
        "average": "jit(update)/optimizer/average/add",
    }
    lines = ["%a = f32[8]{0} parameter(0)"]
    for origin, name in names.items():
        lines.append(f'%{origin} = f32[8]{{0}} tanh(%a), metadata={{op_name="{name}"}}')
    lines.append("ROOT %all = f32[8]{0} fusion(%a), kind=kLoop, calls=%inside")
    inside = [
        "%p = f32[8]{0} parameter(0)",
        f'ROOT %t = f32[8]{{0}} tanh(%p), metadata={{op_name="{names["backward"]}"}}',
    ]
    found = {kernel.name: kernel.origin for kernel in kernels(entry(*lines, inside=inside))}
    assert found == {name: name for name in names} | {"all": "backward"}


@pytest.fixture(scope="module")
def own(rooms):
    """A small denoiser, and a program of ours lowered with it for this machine."""
    settings = rooms["accelerators"].Settings("h100", network="mlp(hidden=(16,))", shape=(4,), batch=8)
    denoiser, mesh = rooms["accelerators"].denoiser_of(settings), make_mesh(1, jax.devices()[:1])
    x = jax.ShapeDtypeStruct((8, 4), jnp.float32, sharding=jd.training.batch_sharding(mesh))
    return denoiser, x, lambda name: getattr(rooms["accelerators"], name)(denoiser, x, mesh)


@pytest.mark.slow
def test_the_training_step_names_optimizer_and_average(own):
    names = own[2]("training").as_text(debug_info=True)
    for name in ("transpose(jvp", "/optimizer/", "/optimizer/average/"):
        assert name in names


def test_a_sampling_step_evaluates_the_network_once_and_a_likelihood_twice_as_much(own, kernels):
    denoiser, x, lower = own
    flops = lambda program: sum(kernel.runs * kernel.flops for kernel in kernels(program.compile().as_text()))
    t = jax.ShapeDtypeStruct((8,), jnp.float32)
    once = flops(jax.jit(lambda params, x, t: denoiser.network(params, x, t, None)).lower(denoiser.params, x, t))
    assert once > 2 * 8 * 4 * 16
    assert flops(lower("sampling")) == 50 * once
    probes = flops(lower("likelihood")) - once
    assert 0 < probes <= once + 2 * 8 * 4  # the noise level has no tangent; the probe's product with itself


def test_a_training_step_of_texts_takes_tokens_and_multiplies_by_the_whole_vocabulary(rooms, kernels):
    words = "transformer(width=16, depth=1, heads=2, noise=False)"
    settings = rooms["accelerators"].Settings("h100", network=words, shape=(8,), categories=30, batch=4)
    denoiser, mesh = rooms["accelerators"].denoiser_of(settings), make_mesh(1, jax.devices()[:1])
    x = jax.ShapeDtypeStruct((4, 8), jnp.int32, sharding=jd.training.batch_sharding(mesh))
    program = rooms["accelerators"].training(denoiser, x, mesh).compile().as_text()
    assert settings.asked == ("training", "sampling")
    products = [kernel.flops for kernel in kernels(program) if kernel.kind == "product"]
    assert 2 * 4 * 8 * 16 * 30 in products


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("topology not implemented for cuda", r"pip install '.\[plan\]'"),
        ("JAX TPU support not installed; cannot generate TPU topology.", r"pip install '.\[plan\]'"),
        ("RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm", "smaller batch, --model"),
        ("INTERNAL: Couldn't find output tile sizes", "xla_gpu_enable_triton_gemm=false"),
        ("cuDNN not found.", "pip install nvidia-cudnn-cu12"),
    ],
)
def test_where_xla_cannot_compile_stands_what_to_try(rooms, monkeypatch, said, words):
    class Lowered:
        def compile(self):
            raise jax.errors.JaxRuntimeError(said)

    monkeypatch.setattr(rooms["accelerators"], "training", lambda *arguments: Lowered())
    with pytest.raises(RuntimeError, match=f"(?s)cannot compile this for h100: {said[:20]}.*{words}"):
        rooms["accelerators"].compiled(rooms["accelerators"].Settings("h100"), "training", None, make_mesh())


@pytest.mark.parametrize("name", ["h200", "h100:0", "h100:12", "h100:4x4", "h100:", "v5e", "v5e:16", ""])
def test_a_device_that_is_none_is_refused(rooms, name):
    with pytest.raises(ValueError, match="expected h100, a100 or l4"):
        rooms["accelerators"].Settings(name)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"text": Path("program.txt"), "batch": 8}, "--text is a program that was compiled; leave it out, or --batch"),
        ({"network": "mlp", "diffusers": Path("folder")}, "--network and --diffusers are two networks"),
        ({"categories": 27, "programs": ("likelihood",)}, "--categories has neither diffusers' networks nor a flow's"),
        ({"trips": ("while=5",)}, "--trips and --charge are for one program; say which"),
    ],
)
def test_settings_that_exclude_each_other_are_refused(rooms, settings, message):
    with pytest.raises(ValueError, match=message):
        rooms["accelerators"].Settings("h100", **settings)


@pytest.mark.parametrize("word", ["while.5", "while.5=", "=5", "while.5=-1", "while.5=many", "while.5=1.5"])
def test_turns_are_named_numbers(rooms, word):
    assert rooms["accelerators"].entries(["while.5=100"], int) == {"while.5": 100}
    with pytest.raises(ValueError, match="expected for example while.5=100"):
        rooms["accelerators"].entries([word], int)


def test_a_text_is_reported_by_kind_and_origin(rooms, tmp_path):
    (tmp_path / "scan.txt").write_text(SCAN)
    settings = rooms["accelerators"].Settings("h100", text=tmp_path / "scan.txt", largest=1)
    figures = rooms["accelerators"].measure(settings)
    (row,) = figures.values()
    assert row["total"][:3] == [36, 12 * ((2 * 262_144 + 4) + (262_144 + 131_072) + 12), 12 * 2 * 64 * 256 * 256]
    assert row["total"] == pytest.approx(np.sum(list(row["kinds"].values()), 0))
    assert row["total"] == pytest.approx(np.sum(list(row["origins"].values()), 0))
    assert [one["name"] for one in row["largest"]] == ["weights"]
    lines = rooms["accelerators"].table("scan.txt", row)
    for word in ("product", "copy", "forward", "total", "launched from the host in 0.29 ms"):
        assert word in lines


@pytest.mark.slow
@pytest.mark.parametrize(("device", "package"), [("h100", "jax_plugins.xla_cuda12"), ("v5e:2x2", "libtpu")])
def test_the_demos_programs_compile_for_a_device_that_is_not_here(device, package):
    pytest.importorskip(package, reason="pip install '.[plan]' for what compiles")
    path = os.pathsep.join(sys.path)
    run = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "accelerators.py", device, "--json"],
        env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    figures = json.loads(run.stdout)
    assert figures.keys() == {"training", "sampling", "likelihood"}
    assert figures["training"]["origins"].keys() == {"forward", "backward", "optimizer", "average"}
    assert bool(figures["training"]["collectives"]) == (device != "h100")
    for row in figures.values():
        assert min(row["total"]) > 0
        assert row["memory"]["total"] < 1e9
