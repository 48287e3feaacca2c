"""Aggregation of several verifiers' scores."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tts_jax.verifiers import load_verifier
from tts_jax.verifiers.panel import Panel, weighted_rank, weighted_zscore

INF, NAN = float("inf"), float("nan")
ONES = jnp.ones(2)


def test_zscores_use_the_population():
    scores = jnp.array([[1.0, 10.0], [3.0, 10.0], [5.0, 40.0]])
    expected = sum(
        weight * (column - column.mean()) / column.std()
        for weight, column in zip((2.0, 0.5), np.asarray(scores).T, strict=True)
    )
    np.testing.assert_allclose(weighted_zscore(scores, jnp.array([2.0, 0.5])), expected, rtol=1e-5)


def test_a_verifier_that_sees_no_difference_adds_nothing():
    scores = jnp.array([[1.0, 0.1], [2.0, 0.1], [3.0, 0.1]])
    alone = weighted_zscore(scores[:, :1], ONES[:1])
    np.testing.assert_array_equal(weighted_zscore(scores, ONES), alone)
    assert weighted_zscore(scores[:1], ONES).tolist() == [0.0]


def test_borda_counts_the_beaten_and_ties_share_their_ranks():
    scores = jnp.array([[1.0, 7.0], [2.0, 7.0], [3.0, 5.0], [3.0, 9.0]])
    first, second = np.array([0, 1, 2.5, 2.5]), np.array([1.5, 1.5, 0, 3])
    expected = (2 * first + 0.5 * second) / 2
    np.testing.assert_allclose(weighted_rank(scores, jnp.array([2.0, 0.5])), expected)


@pytest.mark.parametrize("wrong", [NAN, INF, -INF])
@pytest.mark.parametrize("aggregate", [weighted_zscore, weighted_rank])
def test_a_score_that_is_not_finite_is_the_worst(aggregate, wrong):
    scores = jnp.array([[5.0], [wrong], [1.0], [3.0]])
    values = aggregate(scores, jnp.ones(1))
    assert jnp.argsort(-values).tolist() == [0, 3, 2, 1]
    assert Panel.faults(scores).tolist() == [1]


@pytest.mark.parametrize("aggregate", [weighted_zscore, weighted_rank])
def test_padding_changes_no_value(aggregate):
    scores = jax.random.normal(jax.random.key(0), (5, 2))
    padded = jnp.concatenate([scores, jnp.array([[100.0, NAN], [-100.0, 0.0]])])
    valid = jnp.arange(7) < 5
    values = aggregate(padded, ONES, valid)
    np.testing.assert_allclose(values[:5], aggregate(scores, ONES), atol=1e-6)
    assert (values[5:] == -INF).all()
    assert Panel.faults(padded, valid).tolist() == [0, 0]


class _Brightness:
    name, needs = "brightness", "image"

    def prepare(self, params, prompts):
        return jnp.array([[float(len(prompt))] for prompt in prompts])

    def score(self, params, frames, query):
        return params["gain"] * frames[:, 0].mean((1, 2, 3)) + query[0]


def test_a_panel_scores_every_verifier_in_one_program():
    flicker, _ = load_verifier("flicker")
    panel = Panel([_Brightness(), flicker], weights=[1.0, 2.0], aggregation="rank")
    params = {"brightness": {"gain": jnp.float32(2.0)}, "flicker": {}}
    query = jax.tree.map(lambda leaf: leaf[1], panel.prepare(params, ["a", "abc"]))
    frames = jnp.stack([jnp.full((3, 4, 4, 3), 0.25), jnp.zeros((3, 4, 4, 3)).at[1].set(1.0)])
    scores = jax.jit(panel.score)(params, frames, query)
    np.testing.assert_allclose(scores, [[3.5, 1.0], [3.0, 0.0]])
    assert panel.value(scores).tolist() == [1.5, 0.0]
    assert panel.names == ("brightness", "flicker") and panel.needs == "video"
    assert Panel([_Brightness()]).needs == "image"


@pytest.mark.parametrize(
    "arguments",
    [
        dict(verifiers=[]),
        dict(verifiers=[_Brightness(), _Brightness()]),
        dict(verifiers=[_Brightness()], weights=[1.0, 2.0]),
        dict(verifiers=[_Brightness()], aggregation="median"),
    ],
)
def test_a_panel_that_makes_no_sense_is_an_error(arguments):
    with pytest.raises(ValueError):
        Panel(**arguments)
