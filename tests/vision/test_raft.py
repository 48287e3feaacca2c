"""RAFT at its published size against the reference outputs, whose weights come from a recipe."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from converters.core import check, convert
from converters.flow import RAFT_IGNORED, RAFT_RULES, without_wrapper
from tests.vbench_models import Models
from tts_jax.checkpoints import abstract_params
from tts_jax.vision.raft import RAFT, RAFTConfig


@pytest.fixture(scope="module")
def models(golden):
    return Models.read(golden("vbench"))


@pytest.fixture(scope="module")
def like():
    return abstract_params(RAFT, RAFTConfig.raft_things())


@pytest.fixture(scope="module")
def raft(models, like):
    params = convert(models.tensors("raft"), like[1], RAFT_RULES, RAFT_IGNORED)
    return nnx.merge(like[0], jax.tree.map(jnp.asarray, params))


@pytest.fixture(scope="module")
def frames(models):
    return [jnp.asarray(x) for x in models.frames("raft")]


@pytest.fixture(scope="module")
def refine(raft, frames):
    """`refine(n)`: flows after n refinements, by one program for all n; then those backwards."""
    pairs = jnp.concatenate(frames), jnp.concatenate(frames[::-1])
    graph, params = nnx.split(raft)
    run = jax.jit(lambda params, *args: nnx.merge(graph, params).refine(*args))
    return lambda iterations: run(params, *pairs, jnp.int32(iterations))


def compare(models, found, expected):
    found = np.moveaxis(np.asarray(found)[0], -1, 0)
    error = np.abs(found - expected).max() / np.abs(expected).max()
    assert error < models.tolerance("raft")


def test_features_and_context_match(models, raft, frames):
    first = 2 * frames[0] / 255 - 1
    compare(models, raft.features(first)[..., ::16], models.outputs["raft_fmap1"])
    context = raft.context(first)
    compare(models, context[..., ::16], models.outputs["raft_context"])


def test_the_flow_matches_after_every_number_of_refinements(models, refine):
    counts = models.manifest["raft"]["iterations"]
    assert max(counts) == RAFTConfig.raft_things().iterations
    for count in counts:
        low, up = refine(count)
        compare(models, low, models.outputs[f"raft_low_{count}"])
        compare(models, up[:, 1::4, 2::4], models.outputs[f"raft_up_{count}"])


def test_names_of_several_devices_and_counters_of_training_are_known(models, like):
    tensors = {f"module.{name}": tensor for name, tensor in models.tensors("raft").items()}
    counted = [n.replace("running_var", "num_batches_tracked") for n in tensors]
    tensors |= {name: np.zeros((), np.int64) for name in counted if name not in tensors}
    steps = check(without_wrapper(tensors), like[1], RAFT_RULES, RAFT_IGNORED)
    spared = tensors.keys() - {f"module.{step.source}" for step in steps}
    assert spared == {n for n in tensors if "num_batches_tracked" in n or ".norm3." in n}
    learned = sum(tensors[f"module.{s.source}"].size for s in steps if "running" not in s.source)
    assert learned == models.manifest["raft"]["count"]


@pytest.mark.parametrize(
    ("size", "message"),
    [((120, 192), "at least 128 pixels, not 120 x 192"), ((128, 132), "multiples of 8")],
)
def test_frames_without_a_flow_are_refused(raft, size, message):
    frames = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(raft, frames, frames)
