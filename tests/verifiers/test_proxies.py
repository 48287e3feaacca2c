"""Stand-ins without weights: each against numbers worked out by hand; out of final scores."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tts_jax.evaluation.vbench.dimensions import DIMENSIONS, STAND_INS, Video
from tts_jax.evaluation.vbench.scores import NAMES, final_scores
from tts_jax.verifiers import load_verifier
from tts_jax.verifiers.proxies import PROXIES, STATISTICS, flow_motion


def score(name, levels):
    """Of one video of levels, by the verifier."""
    verifier, params = load_verifier(name)
    assert params == {} and verifier.name == name and verifier.needs == "video"
    (query,) = verifier.prepare(params, ["a dog"])
    frames = jnp.asarray(levels, jnp.float32)[None] / 255
    found = jax.jit(verifier.score)(params, frames, query)
    assert found.shape == (1,) and found.dtype == jnp.float32
    return float(found[0])


def flat(*colours, height=6, width=8):
    """Frames of one colour each."""
    return np.broadcast_to(
        np.asarray(colours, float)[:, None, None], (len(colours), height, width, 3)
    )


def blob(down, across, size=48):
    """Three frames of a smooth bright spot on grey that moves."""
    rows, columns = np.mgrid[:size, :size]
    frames = [
        np.exp(-((rows - 20 - t * down) ** 2 + (columns - 18 - t * across) ** 2) / 50)
        for t in range(3)
    ]
    return 60 + 150 * np.repeat(np.stack(frames)[..., None], 3, -1)


def test_flow_motion_is_the_length_of_the_fastest_motion_in_sides():
    measure = jax.jit(flow_motion)
    for motion in ((0.0, 1.0), (3.0, 0.0), (-3.0, 4.0)):
        found = float(measure(jnp.asarray(blob(*motion), jnp.float32)))
        assert found == pytest.approx(np.hypot(*motion) / 48, rel=0.05)


def test_flow_motion_of_still_and_of_single_frames_is_nothing():
    assert score("proxy_flow_motion", blob(0, 0)) == pytest.approx(0, abs=1e-4)
    assert score("proxy_flow_motion", flat([9, 9, 9])) == 0
    assert flow_motion(jnp.asarray(blob(0, 2)[:, :33, :21])) > 0  # odd sides


def test_midframe_error_is_what_neighbours_do_not_tell():
    levels = flat([0, 0, 0], [40, 40, 40], [20, 20, 20], [90, 90, 90])
    assert score("proxy_midframe_error", levels) == pytest.approx(-30 / 255)
    even = flat([0, 0, 0], [10, 10, 10], [20, 20, 20])
    assert score("proxy_midframe_error", even) == 0
    assert score("proxy_midframe_error", levels[:2]) == 0


def test_feature_consistency_is_the_mean_of_two_cosines():
    red, blue = [200, 10, 10], [10, 10, 200]
    assert score("proxy_feature_consistency", flat(red, red, red)) == pytest.approx(1)
    # Frame 1 is like none, frame 2 like the first, not like the one before.
    assert score("proxy_feature_consistency", flat(red, blue, red)) == pytest.approx(0.25)
    moved = flat(red, red).copy()
    moved[1, :3] = blue  # two of four quarters differ
    assert score("proxy_feature_consistency", moved) == pytest.approx(0.5)
    assert score("proxy_feature_consistency", flat(red)) == 1


def test_colorfulness_is_that_of_hasler_and_suesstrunk():
    assert score("proxy_colorfulness", flat([80, 80, 80])) == 0
    split = flat([100, 0, 0]).copy()
    split[:, :, :4] = [0, 100, 0]
    # rg is +-100, yb 50 everywhere: sqrt(100^2 + 0) + 0.3 sqrt(0 + 50^2).
    assert score("proxy_colorfulness", split) == pytest.approx(100 + 0.3 * 50, rel=1e-5)


def test_sharpness_is_the_deviation_of_the_laplacian():
    x = np.zeros((1, 5, 5, 3))
    x[0, 2, 2] = 100
    laplacian = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]]) * 100
    assert score("proxy_sharpness", x) == pytest.approx(laplacian.std(), rel=1e-5)
    assert score("proxy_sharpness", x[:, :2, :2]) == 0


def test_no_stand_in_is_named_like_a_dimension_or_enters_a_final_score():
    assert STATISTICS.keys() == PROXIES.keys() == STAND_INS.keys()
    for name in STATISTICS:
        assert name.startswith("proxy_") and name.removeprefix("proxy_") not in NAMES
        assert name not in DIMENSIONS
        with pytest.raises(ValueError, match="never enters Quality, Semantic or Total"):
            final_scores({name: 1.0, **dict.fromkeys(NAMES, 0.5)})


def test_the_evaluation_measures_what_the_verifier_scores():
    levels = blob(2, 1).astype(np.uint8)
    for name, stand_in in STAND_INS.items():
        verdict = stand_in(Video("v", levels, 8.0, "a dog"), {})
        assert verdict.total == pytest.approx(score(name, levels), rel=1e-5)
