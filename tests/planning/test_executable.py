"""What is read from the text of compiled programs, against counts by hand.

The compiler is libtpu's, which is among the test requirements: without it nothing of a plan can be
tested.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from tts_jax.nn import attention
from tts_jax.parallel import make_mesh
from tts_jax.planning import chips, executable
from tts_jax.planning.jaxprs import operand_bytes, work_of

LAYERS, ROWS, WIDTH = 8, 1024, 512


@pytest.fixture(scope="module")
def devices():
    """Four v5e chips."""
    return chips.tpu_devices("v5e:2x2")[1]


@pytest.fixture(scope="module")
def mesh(devices):
    return make_mesh(branch=2, model=2, devices=devices)


def layers(x, kernels):
    def layer(x, kernel):
        return jax.nn.relu(x @ kernel), None

    return jax.lax.scan(layer, x, kernels)[0]


def trace(mesh, function, *shapes):
    """For shapes with dtypes and specs."""
    args = [
        jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))
        for shape, dtype, spec in shapes
    ]
    return jax.jit(function).trace(*args)


@pytest.fixture(scope="module")
def program(mesh):
    """Rows divided over `branch`, the outputs of every layer over `model`."""
    traced = trace(
        mesh,
        layers,
        ((ROWS, WIDTH), jnp.bfloat16, P("branch")),
        ((LAYERS, WIDTH, WIDTH), jnp.bfloat16, P(None, None, "model")),
    )
    return traced, executable.compile_for(traced.lower())


def test_memory_is_that_of_one_chip(program):
    memory = executable.memory_of(program[1])
    kernels, rows = 2 * LAYERS * WIDTH * WIDTH // 2, 2 * ROWS * WIDTH // 2
    assert memory.arguments == kernels + rows
    assert memory.arguments <= memory.peak < 4 * memory.arguments


def test_loops_count_as_often_as_they_run(program):
    traced, compiled = program
    text = executable.read(compiled.as_text())
    assert max(text.runs.values()) == LAYERS
    # the kernels once, activations at most in and out of every layer
    kernels, rows = 2 * LAYERS * WIDTH * WIDTH // 2, 2 * ROWS * WIDTH // 2
    assert kernels <= text.moved <= kernels + 4 * LAYERS * rows
    chip = chips.TPUS[0]
    least = work_of(traced.jaxpr).flops / 4 / chip.flops
    assert least <= text.cycles / chip.clock <= 20 * least
    # every layer's columns go to the other chip of the row
    assert set(text.collectives) == {"all-gather"}
    assert text.collectives["all-gather"] >= LAYERS * rows / 2


def test_operations_are_told_apart():
    def step(x, kernels):
        return (layers(x, kernels) @ kernels[0]).astype(jnp.float32) @ jnp.ones((WIDTH, 4))

    args = (jnp.ones((4, WIDTH), jnp.bfloat16), jnp.ones((3, WIDTH, WIDTH), jnp.bfloat16))
    work = work_of(jax.make_jaxpr(step)(*args))
    narrow, wide = 2 * 4 * WIDTH * WIDTH * (3 + 1), 2 * 4 * WIDTH * 4
    assert (work.flops, work.wide, work.kernels) == (narrow + wide, wide, 0)
    assert work.elementwise == 3 * 4 * WIDTH  # relu of each layer
    assert work.share == work.flops / (work.flops + work.elementwise)


def test_the_kernel_compiles_and_its_operations_are_known(mesh, monkeypatch):
    shape = (1, 512, 4, 64), jnp.bfloat16, P(None, None, "model")
    mask = (1, 512, 512), jnp.bool_, P()

    def attend(q, k, v, mask):
        return attention.attend(q, k, v, mask, implementation="splash")

    with attention.on_platform("tpu"), jax.set_mesh(mesh):
        traced = trace(mesh, attend, shape, shape, shape, mask)
    compiled = executable.compile_for(traced.lower())
    text = executable.read(compiled.as_text())
    assert text.kernels == 1 and not text.collectives
    work = work_of(traced.jaxpr)
    twice = 2  # both chips of the axis `branch` do the same
    assert work.flops == work.kernels == twice * 4 * 4 * 512 * 512 * 64


def test_what_does_not_fit_says_how_much_it_needs(mesh):
    shape = (6, 2**30), jnp.float32, P()
    with pytest.raises(executable.DoesNotFit) as found:
        executable.compile_for(trace(mesh, lambda x: x[::-1] + 1, shape).lower())
    assert found.value.needed > 24 * 2**30


def test_topologies_that_cannot_be_compiled_for_are_refused(monkeypatch, devices):
    for name in ("v5e", "v1:2x2", "v5e:3x5x7"):
        with pytest.raises(chips.TopologyError, match=name):
            chips.tpu_devices(name)
    monkeypatch.setattr(chips.util, "find_spec", lambda name: None)
    with pytest.raises(chips.TopologyError, match=r'needs libtpu: pip install -e "\.\[plan\]"'):
        chips.tpu_devices("v5e:2x2")


def test_a_kernel_of_many_lines_hides_nothing_after_it():
    text = """
ENTRY %main (a: f32[8]) -> f32[8] {
  %a = f32[8]{0} parameter(0)
  %k = f32[8]{0} custom-call(%a), custom_call_target="tpu_custom_call", frontend_attributes={m="{
"x": 1
}}, metadata={op_name="k"}
  ROOT %b = f32[8]{0} fusion(%k), kind=kLoop, calls=%f, backend_config={"estimated_cycles":"7"}
}
"""
    found = executable.read(text)
    assert (found.kernels, found.cycles, found.moved) == (1, 7, 2 * 64)


def test_what_the_compiler_has_no_estimate_for_counts_by_its_bytes_and_as_often_as_it_runs():
    def fusion(name, cycles):
        config = f'backend_config={{"estimated_cycles":"{cycles}"}}'
        return f"%{name} = f32[8]{{0}} fusion(%p), kind=kLoop, calls=%f, {config}"

    text = f"""
%body (p: f32[8]) -> f32[8] {{
  %p = f32[8]{{0}} parameter(0)
  {fusion("known", 7)}
  ROOT {fusion("unknown", 2**63 - 1)}
}}

%condition (p: f32[8]) -> pred[] {{
  %p = f32[8]{{0}} parameter(0)
  ROOT %most = s32[] constant(5)
}}

ENTRY %main (a: f32[8]) -> f32[8] {{
  %a = f32[8]{{0}} parameter(0)
  ROOT %w = f32[8]{{0}} while(%a), condition=%condition, body=%body
}}
"""
    found = executable.read(text)
    assert (found.cycles, found.unestimated, found.moved) == (5 * 7, 5 * 64, 5 * 2 * 64)


def test_collectives_count_where_they_are_fused_and_once_for_each_channel():
    text = """
%fused (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  ROOT %r = f32[16]{0} all-gather(%p), channel_id=3, dimensions={0}
}

ENTRY %main (a: f32[8]) -> f32[8] {
  %a = f32[8]{0} parameter(0)
  %first = f32[16]{0} fusion(%a), kind=kCustom, calls=%fused
  %second = f32[16]{0} fusion(%a), kind=kCustom, calls=%fused
  %whole = f32[16]{0} all-gather(%a), channel_id=4, dimensions={0}
  %s = f32[8]{0} all-reduce-start(%a), channel_id=5, to_apply=%add
  ROOT %d = f32[8]{0} all-reduce-done(%s)
}
"""
    assert executable.read(text).collectives == {"all-gather": 2 * 64, "all-reduce": 32}


@pytest.mark.parametrize(
    ("use", "shape", "read", "written"),
    [("dynamic-slice(%c, %i)", "f32[1,4]", 4, 16), ("negate(%c)", "f32[6,4]", 24, 96)],
)
def test_a_layer_that_is_converted_and_sliced_moves_alone(use, shape, read, written):
    text = f"""
%inner (q: s8[6,4]) -> s8[6,4] {{
  %q = s8[6,4]{{1,0}} parameter(0)
  ROOT %copied = s8[6,4]{{1,0}} copy(%q)
}}

%outer (p: s8[6,4], i: s32[]) -> {shape} {{
  %p = s8[6,4]{{1,0}} parameter(0)
  %i = s32[]{{:S(1)}} parameter(1)
  %l = s8[6,4]{{1,0}} fusion(%p), kind=kLoop, calls=%inner
  %c = f32[6,4]{{1,0}} convert(%l)
  ROOT %r = {shape}{{1,0}} {use}
}}

ENTRY %main (a: s8[6,4], i: s32[]) -> {shape} {{
  %a = s8[6,4]{{1,0}} parameter(0)
  %i = s32[]{{:S(1)}} parameter(1)
  ROOT %f = {shape}{{1,0}} fusion(%a, %i), kind=kLoop, calls=%outer
}}
"""
    assert executable.read(text).moved == read + written


def test_bytes_of_shapes():
    assert executable.nbytes("bf16[2,3]{1,0:T(8,128)(2,1)}") == 12
    assert executable.nbytes("(f32[4]{0}, s4[3]{0:S(1)}, pred[])") == 17
    assert executable.nbytes("s4[3]{0:S(1)}", anywhere=True) == 1.5
    assert np.isclose(executable.nbytes("token[]"), 0)


def test_an_operand_that_branches_share_is_counted_once():
    shared, own = jnp.zeros((64, 32), jnp.bfloat16), jnp.zeros((5, 8, 64), jnp.bfloat16)

    def each(shared_axis):
        function = jax.vmap(lambda x, w: x @ w, (0, shared_axis))
        weights = shared if shared_axis is None else jnp.stack([shared] * 5)
        return operand_bytes(jax.make_jaxpr(function)(own, weights))

    rest = 2 * 5 * (8 * 64 + 8 * 32)
    assert each(None) == rest + 2 * 64 * 32 and each(0) == rest + 5 * 2 * 64 * 32
