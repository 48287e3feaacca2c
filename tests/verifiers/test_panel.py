"""Aggregation of several verifiers' scores."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import rankdata

from tts_jax.verifiers import load_verifier
from tts_jax.verifiers.panel import (
    AGGREGATIONS,
    Panel,
    pareto_rank,
    trimmed_rank,
    weighted_rank,
    weighted_sum,
    weighted_zscore,
)

INF, NAN = float("inf"), float("nan")
ONES = jnp.ones(2)
ALL = pytest.mark.parametrize("aggregate", AGGREGATIONS.values(), ids=AGGREGATIONS)

# Few different scores, so that ties are common; six branches, one compilation.
BRANCHES, WEIGHTS = 6, np.array([1.0, 0.25, 2.0, 0.5], np.float32)
SCORES = hnp.arrays(np.float32, (BRANCHES, 4), elements=st.integers(-3, 3).map(float))
COMPILED = {aggregate: jax.jit(aggregate) for aggregate in AGGREGATIONS.values()}


def values_of(aggregate, scores, valid=None):
    valid = np.ones(BRANCHES, bool) if valid is None else valid
    return np.asarray(COMPILED[aggregate](scores.astype(np.float32), WEIGHTS, valid))


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
@ALL
def test_a_score_that_is_not_finite_is_the_worst(aggregate, wrong):
    scores = jnp.array([[5.0], [wrong], [1.0], [3.0]])
    values = aggregate(scores, jnp.ones(1))
    order = [0, 3, 2, 1]
    assert jnp.argsort(-values).tolist() == order
    assert not jnp.isnan(values).any()
    assert Panel.faults(scores).tolist() == [1]


@ALL
def test_padding_changes_no_value(aggregate):
    scores = jax.random.normal(jax.random.key(0), (5, 2))
    padded = jnp.concatenate([scores, jnp.array([[100.0, NAN], [-100.0, 0.0]])])
    valid = jnp.arange(7) < 5
    values = aggregate(padded, ONES, valid)
    np.testing.assert_allclose(values[:5], aggregate(scores, ONES), atol=1e-6)
    assert (values[5:] == -INF).all()
    assert Panel.faults(padded, valid).tolist() == [0, 0]


def test_a_sum_is_the_same_in_any_company():
    scores = jnp.array([[1.0, -2.0], [0.5, 4.0], [NAN, 0.0]])
    weights = jnp.array([2.0, 0.5])
    assert weighted_sum(scores, weights).tolist() == [1.0, 3.0, -INF]
    assert weighted_sum(scores[:1], weights).tolist() == [1.0]


def test_fronts_come_before_the_borda_count():
    scores = jnp.array([[3.0, 1.0], [1.0, 3.0], [0.0, 2.5], [2.0, 0.5], [0.0, 0.0]])
    values = pareto_rank(scores, jnp.array([2.0, 1.0]))
    assert jnp.ceil(values - 0.99).tolist() == [0, 0, -1, -1, -2]
    assert jnp.argsort(-values).tolist() == [0, 1, 3, 2, 4]
    assert values[4] == -2.0 + 0.5 * 2 / 15  # beats none, shares one verifier's lowest rank


def test_a_weight_of_zero_takes_a_verifier_out_of_fronts_and_trimmed_ranks():
    scores = jnp.array([[1.0, 2.0, 0.0, 9.0], [2.0, 3.0, 1.0, 0.0]])
    for aggregate in (pareto_rank, trimmed_rank):
        with_it = aggregate(scores, jnp.array([1.0, 1.0, 1.0, 0.0]))
        assert with_it[1] > with_it[0]
    assert pareto_rank(scores, jnp.ones(4)).min() >= 0


def test_the_highest_and_the_lowest_rank_are_trimmed():
    scores = jnp.array([[1.0, 2.0, 3.0, 1.0], [2.0, 3.0, 1.0, 2.0], [3.0, 1.0, 2.0, 3.0]])
    expected = [(0 + 1) / 2, (1 + 1) / 2, (1 + 2) / 2]
    np.testing.assert_allclose(trimmed_rank(scores, jnp.ones(4)), expected)


def test_two_verifiers_are_too_few_to_trim():
    scores = jnp.array([[1.0, 1.0], [2.0, 0.0], [3.0, 5.0]])
    np.testing.assert_allclose(trimmed_rank(scores, jnp.array([9.0, 1.0])), [0.5, 0.5, 2.0])


@ALL
@settings(max_examples=40, deadline=None)
@given(scores=SCORES, order=st.permutations(range(BRANCHES)))
def test_values_follow_their_branches(aggregate, scores, order):
    values = values_of(aggregate, scores)
    np.testing.assert_allclose(values_of(aggregate, scores[order]), values[order], atol=1e-5)


@ALL
@settings(max_examples=40, deadline=None)
@given(
    scores=SCORES,
    branch=st.integers(0, BRANCHES - 1),
    verifier=st.integers(0, 3),
    rise=st.integers(1, 6),
)
def test_a_higher_score_never_lowers_a_branchs_value(aggregate, scores, branch, verifier, rise):
    raised = scores.copy()
    raised[branch, verifier] += rise
    before, after = values_of(aggregate, scores), values_of(aggregate, raised)
    assert after[branch] >= before[branch] - 1e-5


@ALL
@settings(max_examples=40, deadline=None)
@given(scores=SCORES, present=st.integers(1, BRANCHES), junk=st.sampled_from([NAN, INF, 1e30]))
def test_what_fills_a_program_up_changes_no_value(aggregate, scores, present, junk):
    valid = np.arange(BRANCHES) < present
    filled = np.where(valid[:, None], scores, junk)
    values = values_of(aggregate, filled, valid)
    np.testing.assert_array_equal(values[:present], values_of(aggregate, scores, valid)[:present])
    assert (values[present:] == -INF).all()


@settings(max_examples=60, deadline=None)
@given(scores=SCORES, verifier=st.integers(0, 3), data=st.data())
def test_one_crazy_verifier_moves_no_trimmed_rank_out_of_the_others_range(scores, verifier, data):
    crazy = scores.copy()
    elements = st.sampled_from([-1e30, 0.0, 1e30, INF, NAN])
    crazy[:, verifier] = data.draw(hnp.arrays(np.float32, BRANCHES, elements=elements))
    others = [v for v in range(4) if v != verifier]
    single = [rankdata(scores[:, v]) - 1 for v in others]
    values = values_of(trimmed_rank, crazy)
    assert (values >= np.min(single, axis=0) - 1e-6).all()
    assert (values <= np.max(single, axis=0) + 1e-6).all()


@settings(max_examples=100, deadline=None)
@given(scores=SCORES)
def test_no_branch_beats_one_that_dominates_it(scores):
    values = values_of(pareto_rank, scores)
    for i in range(BRANCHES):
        for j in range(BRANCHES):
            if (scores[i] >= scores[j]).all() and (scores[i] > scores[j]).any():
                assert values[i] > values[j]


class _Named:
    needs = "video"

    def __init__(self, name, needs="video"):
        self.name, self.needs = name, needs


def panel_of(*names, **options):
    return Panel([_Named(name) for name in names], **options)


@ALL
def test_a_branch_under_a_floor_loses_to_every_other(aggregate):
    name = next(name for name, found in AGGREGATIONS.items() if found is aggregate)
    panel = panel_of("text", "motion", aggregation=name, guards={"motion": 0.5})
    scores = jnp.array([[9.0, 0.4], [-9.0, 0.5], [0.0, 0.9], [8.0, 0.1], [7.0, NAN]])
    values = jax.jit(panel.value)(scores)
    assert panel.guarded(scores).tolist() == [True, False, False, True, True]
    assert sorted(jnp.argsort(-values)[:2].tolist()) == [1, 2]
    assert jnp.argsort(-values)[2:].tolist() == [0, 3, 4]
    assert jnp.isfinite(values[:4]).all() and values[4] == -INF
    unguarded = panel_of("text", "motion", aggregation=name).value(scores)
    assert values[1:3].tolist() == unguarded[1:3].tolist()


def test_where_all_are_guarded_the_one_that_falls_short_least_comes_first():
    panel = panel_of("motion", "depth", guards={"motion": 0.5, "depth": 100.0})
    # Shortfalls: 0.2, 0.1 + 0.05, 0.3.
    scores = jnp.array([[0.3, 200.0], [0.4, 95.0], [0.2, 200.0]])
    values = panel.value(scores)
    assert jnp.isfinite(values).all() and panel.guarded(scores).all()
    assert jnp.argsort(-values).tolist() == [1, 0, 2]
    np.testing.assert_allclose(values, [-1.2e6, -1.15e6, -1.3e6], rtol=1e-6)


@jax.jit
def guarded_values(scores, valid):
    panel = panel_of("text", "motion", aggregation="sum", guards={"motion": 0.0})
    return panel.value(scores, valid), panel.guarded(scores)


@settings(max_examples=60, deadline=None)
@given(
    scores=hnp.arrays(np.float32, (5, 2), elements=st.floats(-1e9, 1e9, width=32)),
    valid=hnp.arrays(bool, 5),
)
def test_no_guarded_value_reaches_an_unguarded_one(scores, valid):
    values, guarded = map(np.asarray, guarded_values(scores, valid))
    over, under = values[valid & ~guarded], values[valid & guarded]
    if len(over) and len(under):
        assert under.max() < over.min()
    assert (values[~valid] == -INF).all()


@ALL
def test_a_held_out_verifier_is_reported_and_enters_no_value(aggregate):
    name = next(name for name, found in AGGREGATIONS.items() if found is aggregate)
    panel = panel_of(
        "a", "judge", "b", weights=[1.0, 50.0, 2.0], aggregation=name, held_out=["judge"]
    )
    assert panel.names == ("a", "judge", "b") and panel.judges == ("a", "b")
    scores = jnp.array([[1.0, 5.0, 3.0], [2.0, NAN, 2.0], [0.0, -INF, 2.0]])
    alone = panel_of("a", "b", weights=[1.0, 2.0], aggregation=name).value(scores[:, [0, 2]])
    assert panel.value(scores).tolist() == alone.tolist()
    assert panel.faults(scores).tolist() == [0, 2, 0]


def test_a_round_can_have_an_aggregation_of_its_own():
    panel = panel_of("a", "b", weights=[1.0, 0.5], aggregation="rank")
    scores = jnp.array([[1.0, 10.0], [2.0, 30.0]])
    assert panel.value(scores).tolist() == [0.0, 0.75]
    assert panel.value(scores, aggregation="sum").tolist() == [6.0, 17.0]
    with pytest.raises(ValueError, match="'mean' is none of sum, zscore"):
        panel.value(scores, aggregation="mean")


def test_the_part_that_judges_images_keeps_its_weights_guards_and_held_out_names():
    verifiers = [_Named("clip", "image"), _Named("motion"), _Named("look", "image")]
    panel = Panel(
        verifiers, [0.2, 1.0, 3.0], "rank", guards={"motion": 1.0, "clip": 0.1}, held_out=["look"]
    )
    image = panel.image()
    assert image.names == ("clip", "look") and image.judges == ("clip",)
    assert image.guards == {"clip": 0.1} and image.aggregation == "rank"
    assert image.weights.tolist() == panel.weights[[0, 2]].tolist() and image.needs == "image"
    assert Panel(verifiers, held_out=["clip", "look"]).image() is None
    assert panel_of("motion").image() is None


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
        dict(verifiers=[_Brightness()], weights=[-1.0]),
        dict(verifiers=[_Brightness()], weights=[NAN]),
        dict(verifiers=[_Brightness()], guards={"brightness": NAN}),
        dict(verifiers=[_Brightness()], held_out=["brightness"]),
    ],
)
def test_a_panel_that_makes_no_sense_is_an_error(arguments):
    with pytest.raises(ValueError):
        Panel(**arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(guards={"speed": 1.0}), "guard 'speed' is not in the panel, which has a, b"),
        (dict(held_out=["speed"]), "held-out verifier 'speed' is not in the panel"),
        (dict(held_out=["a"], guards={"a": 0.0}), "'a' is held out and so cannot be a guard"),
    ],
)
def test_guards_and_held_out_verifiers_must_be_in_the_panel(options, message):
    with pytest.raises(ValueError, match=message):
        panel_of("a", "b", **options)
