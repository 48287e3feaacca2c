"""AMT-S at its published size against the reference outputs, whose weights come from a recipe."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from converters.core import check, convert
from converters.flow import AMT_RULES
from tests.vbench_models import Models
from tts_jax.checkpoints import abstract_params
from tts_jax.vision.amt import AMT, AMTConfig, warp


@pytest.fixture(scope="module")
def models(golden):
    return Models.read(golden("vbench"))


@pytest.fixture(scope="module")
def like():
    return abstract_params(AMT, AMTConfig.amt_s())


@pytest.fixture(scope="module")
def network(models, like):
    params = convert(models.tensors("amt_s"), like[1], AMT_RULES)
    return nnx.merge(like[0], jax.tree.map(jnp.asarray, params))


@pytest.fixture(scope="module")
def found(models, network):
    """Of two pairs: the second has the frames of the first in the other order."""
    time = models.manifest["amt_s"]["inputs"]["time"]
    first, last = (frame / np.float32(255) for frame in models.frames("amt_s"))
    frames = np.concatenate([first, last]), np.concatenate([last, first])
    graph, params = nnx.split(network)
    return jax.jit(lambda p, *x: nnx.merge(graph, p).interpolate(*x, time))(params, *frames)


def compare(models, found, expected):
    found = np.moveaxis(np.asarray(found), -1, -3)
    error = np.abs(found - expected).max() / np.abs(expected).max()
    assert error < models.tolerance("amt_s")


def test_the_flows_to_the_first_frame_match_at_every_level(models, found):
    *coarse, fine = (flows[0, 0] for flows in found.flows)
    compare(models, np.moveaxis(fine, 2, 0)[:, 1::8, 2::8], models.outputs["amt_flow0_1"])
    assert len(coarse) == 3
    for number, flow in zip((4, 3, 2), coarse, strict=True):
        compare(models, flow[::2, ::2], models.outputs[f"amt_flow0_{number}"])


def test_the_frame_between_matches(models, found):
    compare(models, found.frame[0, 1::4, 2::4], models.outputs["amt_interpolated"])


def test_every_tensor_is_taken_once(models, like):
    tensors = models.tensors("amt_s")
    steps = check(tensors, like[1], AMT_RULES)
    assert {step.source for step in steps} == tensors.keys()
    assert sum(leaf.size for leaf in jax.tree.leaves(like[1])) == models.manifest["amt_s"]["count"]


def test_a_warp_reads_between_pixels_and_repeats_the_edge():
    x = jnp.arange(12.0).reshape(1, 3, 4, 1)
    flow = jnp.zeros((1, 3, 4, 2)).at[0, 0, 1].set(jnp.asarray([1.25, 0.5]))
    flow = flow.at[0, 1, 0].set(jnp.asarray([-3.0, 0.0])).at[0, 2, 3].set(jnp.asarray([9.0, 9.0]))
    expected = x.at[0, 0, 1].set(2.25 + 2)  # the pixel two to the right is 2, one below is 4 more
    np.testing.assert_allclose(warp(x, flow), expected)


@pytest.mark.parametrize(
    ("size", "message"),
    [((112, 192), "at least 128 pixels, not 112 x 192"), ((128, 136), "multiples of 16")],
)
def test_frames_without_a_flow_are_refused(network, size, message):
    frames = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(network, frames, frames)
