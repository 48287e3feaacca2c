"""Stage scores foretell final scores as well as the logs say, and no better."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal

from tts_jax.search.calibration import (
    Calibration,
    CalibrationError,
    DepthFit,
    Standard,
    best_probabilities,
    fit,
    load,
    pairs,
    read_samples,
    smallest_set,
)
from tts_jax.search.paths import Move, to_json
from tts_jax.search.tree import Node

SLOPE, NOISE = 0.8, 0.5


def tree(rng, videos=8, slope=SLOPE, noise=NOISE, level=0.0):
    """A search of two segments, judged after the first; final = level + slope * stage + noise."""
    nodes = []
    for child in range(videos):
        stage = rng.normal()
        final = level + slope * stage + noise * rng.normal()
        nodes.append(Node((child,), (), 0, {"v": stage, "w": 0.0}, value=0.0))
        nodes.append(Node((child, 0), (child,), 1, {"v": final, "w": 0.0}, value=0.0))
    return {"nodes": [node.to_json() for node in nodes]}


def fitted(trees, **weights):
    return fit("tiny", read_samples(trees), weights or {"v": 1.0, "w": 0.0})


def in_raw_units(calibration):
    """Slope and residual as the logs were made: their finals' deviation taken back out."""
    (line,), standard = calibration.depths, calibration.standards["v"]
    return line.slope, line.residual * standard.deviation / standard.weight


def test_slope_and_noise_of_a_log_are_found_again():
    rng = np.random.default_rng(0)
    calibration = fitted([tree(rng) for _ in range(300)])
    slope, residual = in_raw_units(calibration)
    assert slope == pytest.approx(SLOPE, abs=0.03)
    assert residual == pytest.approx(NOISE, abs=0.02)
    (line,) = calibration.depths
    assert line.n == 2400 and line.depth == 1 and calibration.segments == 2
    expected = SLOPE / np.hypot(SLOPE, NOISE)
    assert line.correlation == pytest.approx(expected, abs=0.02)
    assert line.pooled == pytest.approx(expected, abs=0.02)


def test_a_line_through_points_without_noise_predicts_them():
    rng = np.random.default_rng(1)
    calibration = fitted([tree(rng, noise=0.0)])
    nodes = [Node((i,), (), 0, {"v": x}) for i, x in enumerate((-1.0, 0.0, 2.0))]
    means, deviation = calibration.predict(1, nodes)
    finals = [calibration.quantity({"v": SLOPE * node.scores["v"]}) for node in nodes]
    np.testing.assert_allclose(means, finals, atol=1e-9)
    assert deviation == pytest.approx(0.0, abs=1e-9)


def test_easy_prompts_do_not_pass_for_foresight():
    rng = np.random.default_rng(2)
    trees = []
    for level in rng.normal(scale=10.0, size=60):
        log = tree(rng, slope=0.0, level=level)
        for node in log["nodes"][::2]:
            node["scores"]["v"] += level
        trees.append(log)
    calibration = fitted(trees)
    (line,) = calibration.depths
    assert line.pooled > 0.9 and abs(line.correlation) < 0.2
    assert not line.prunes and calibration.predict(1, [Node((0,), (), 0, {"v": 1.0})]) is None


def test_a_depth_with_few_videos_is_reported_and_not_used():
    calibration = fitted([tree(np.random.default_rng(3), videos=4, noise=0.0)])
    (line,) = calibration.depths
    assert line.correlation == pytest.approx(1.0) and line.n == 4
    assert not line.prunes and not calibration.prunes(1)


def test_verifiers_are_weighed_in_units_of_their_final_deviation():
    rng = np.random.default_rng(4)
    log = tree(rng)
    for node in log["nodes"]:
        node["scores"]["w"] = 100.0 * rng.normal()
    calibration = fitted([log], v=1.0, w=0.5)
    finals = [node["scores"] for node in log["nodes"][1::2]]
    v, w = (np.array([scores[name] for scores in finals]) for name in "vw")
    expected = (v - v.mean()) / v.std() + 0.5 * (w - w.mean()) / w.std()
    np.testing.assert_allclose([calibration.quantity(scores) for scores in finals], expected)


def test_a_score_that_is_not_finite_is_left_out_of_the_fit_and_predicted_worst():
    log = tree(np.random.default_rng(5), videos=12, noise=0.1)
    log["nodes"][0]["scores"]["v"] = None
    log["nodes"][3]["scores"]["v"] = None
    calibration = fitted([log])
    assert calibration.depths[0].n == 10
    nodes = [Node((0,), (), 0, {"v": float("nan")}), Node((1,), (), 0, {"v": 0.0})]
    means, _ = calibration.predict(1, nodes)
    assert means[0] == -np.inf and np.isfinite(means[1])


def test_a_node_that_other_verifiers_judged_is_not_predicted():
    calibration = fitted([tree(np.random.default_rng(6), videos=12)])
    assert calibration.prunes(1) and not calibration.prunes(2)
    assert calibration.predict(1, [])[0].shape == (0,)
    assert calibration.predict(1, [Node((0,), (), 0, {"other": 1.0})]) is None
    assert calibration.predict(2, [Node((0, 0), (), 0, {"v": 1.0})]) is None


def test_a_depth_is_fitted_from_the_verifiers_that_saw_all_of_it():
    log = tree(np.random.default_rng(7), videos=12)
    for node in log["nodes"]:
        node["scores"]["w"] = node["scores"]["v"] + 1.0
    del log["nodes"][4]["scores"]["w"]
    calibration = fitted([log], v=1.0, w=1.0)
    assert calibration.depths[0].verifiers == ("v",) and set(calibration.standards) == {"v", "w"}


def entry(path, value, **fields):
    node = Node(path, path[:-1], 0, {} if value is None else {"v": value})
    return {**node.to_json(), **fields}


def test_what_a_step_back_undoes_is_no_ancestor():
    back = Move("renoise", 0, 1, 0.5)
    near = Move("neighbour", 2, 0, 0.9)
    nodes = [
        entry((0,), 1.0),
        entry((0, 0), 2.0),
        entry((0, 0, 0), 3.0),
        entry((0, 0, 0, back), None),
        entry((0, 0, 0, back, 1, 1), 4.0),
        entry((near,), 5.0),
        entry((near, 3), 6.0),
        entry((near, 3, 0, 1), 7.0),
        entry((near, 3, 0, 2), 9.0, fidelity="draft"),
    ]
    samples = {sample.final["v"]: sample for sample in read_samples([{"nodes": nodes}])}
    assert samples.keys() == {3.0, 4.0, 7.0}
    assert samples[3.0].stages == {1: {"v": 1.0}, 2: {"v": 2.0}}
    assert samples[4.0].stages == {}
    assert samples[7.0].stages == {0: {"v": 5.0}, 1: {"v": 6.0}}
    assert nodes[4]["path"] == to_json((0, 0, 0, back, 1, 1))


def test_pairs_know_their_search():
    rng = np.random.default_rng(8)
    trees = [tree(rng, videos=2), tree(rng, videos=3)]
    stage, final, search = pairs(fitted(trees), 1, ("v",), read_samples(trees))
    assert len(stage) == len(final) == 5 and search.tolist() == [0, 0, 1, 1, 1]


@pytest.mark.parametrize("trees", [[], [{"nodes": []}], [{"nodes": [entry((0, 0), None)]}]])
def test_logs_without_a_finished_video_are_an_error(trees):
    with pytest.raises(CalibrationError, match="no finished video"):
        fitted(trees)


@pytest.mark.parametrize("log", [{}, {"nodes": [{"path": ["up"], "scores": {}}]}, {"nodes": [3]}])
def test_a_tree_that_is_none_is_an_error(log):
    with pytest.raises(CalibrationError, match="tree 0 has no readable nodes"):
        read_samples([log])


CALIBRATION = Calibration(
    generator="tiny",
    segments=5,
    standards={"v": Standard(weight=1.0, mean=0.25, deviation=2.0)},
    depths=(
        DepthFit(
            depth=2,
            verifiers=("v",),
            n=40,
            correlation=0.61,
            pooled=0.7,
            slope=0.5,
            intercept=-0.1,
            residual=0.3,
        ),
    ),
)


def test_a_calibration_survives_its_file(tmp_path):
    path = tmp_path / "calibration.json"
    CALIBRATION.save(path)
    assert load(path) == CALIBRATION
    assert [file.name for file in tmp_path.iterdir()] == ["calibration.json"]
    means, deviation = load(path).predict(2, [SimpleNamespace(scores={"v": 2.25})])
    assert means.tolist() == [pytest.approx(0.4)] and deviation == 0.3


def changed(**fields):
    return {**json.loads(json.dumps(dataclasses.asdict(CALIBRATION))), **fields}


LINE = changed()["depths"][0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "the file is not an object"),
        (changed(extra=1), "the file has an unknown 'extra'"),
        (changed(generator=3), "'generator' is not a text"),
        (changed(segments=2.5), "'segments' is not a finite int"),
        (changed(standards={}), "'standards' holds no verifier"),
        (changed(standards={"v": {"weight": 1, "mean": 0}}), "standard 'v' lacks 'deviation'"),
        (changed(standards={"v": {"weight": 1, "mean": 0, "deviation": 0}}), "not above zero"),
        (changed(depths=3), "'depths' is not a list"),
        (changed(depths=[{**LINE, "slope": "1"}]), "depth entry 0: 'slope' is not a finite float"),
        (changed(depths=[{**LINE, "n": True}]), "depth entry 0: 'n' is not a finite int"),
        (changed(depths=[{**LINE, "verifiers": ["w"]}]), "not among the standards"),
        (changed(depths=[{**LINE, "residual": -1}]), "'residual' is below zero"),
    ],
)
def test_a_file_that_is_no_calibration_is_an_error(tmp_path, content, message):
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps(content))
    with pytest.raises(CalibrationError, match=message) as error:
        load(path)
    assert str(path) in str(error.value)


def test_a_file_that_cannot_be_read_is_an_error(tmp_path):
    with pytest.raises(CalibrationError, match="cannot be read: No such file"):
        load(tmp_path / "missing.json")
    (tmp_path / "cut.json").write_text('{"generator": "ti')
    with pytest.raises(CalibrationError, match="is not JSON"):
        load(tmp_path / "cut.json")


def test_a_calibration_fits_its_generator_and_panel_alone():
    CALIBRATION.check("tiny", ("clip", "v"))
    with pytest.raises(CalibrationError, match="for generator 'tiny', not 'other'"):
        CALIBRATION.check("other", ("v",))
    with pytest.raises(CalibrationError, match="the panel has no v"):
        CALIBRATION.check("tiny", ("clip",))


def test_probabilities_of_being_the_best_are_exact():
    assert best_probabilities([0.7], 2.0).tolist() == [1.0]
    difference = multivariate_normal(0.0, 2 * 0.5**2)
    np.testing.assert_allclose(
        best_probabilities([0.3, 0.0], 0.5), [difference.cdf(0.3), difference.cdf(-0.3)], atol=1e-12
    )
    np.testing.assert_allclose(best_probabilities(np.zeros(1000), 3.0), 1e-3, atol=1e-12)
    # The first beats both others: a plane of two correlated differences.
    orthant = multivariate_normal([0.5, 1.0], [[2.0, 1.0], [1.0, 2.0]])
    wanted = multivariate_normal([0, 0], orthant.cov).cdf([0.5, 1.0])
    assert best_probabilities([1.0, 0.5, 0.0], 1.0)[0] == pytest.approx(wanted, abs=1e-5)


def test_means_that_are_not_finite_cannot_be_the_best():
    chance = best_probabilities([0.0, -np.inf, np.nan, 0.0], 1.0)
    np.testing.assert_allclose(chance, [0.5, 0, 0, 0.5])
    np.testing.assert_allclose(best_probabilities([-np.inf, -np.inf], 1.0), 0.5)
    np.testing.assert_allclose(best_probabilities([0.0, -1e12], 1e-3), [1, 0])


def test_without_a_deviation_the_best_mean_is_enough():
    assert smallest_set([0.0, 3.0, 1.0], 0.0, 0.01).tolist() == [1]


def test_the_set_is_in_order_and_no_larger_than_needed():
    assert smallest_set([0.0, 2.0, 0.1, 1.9], 0.3, 0.05).tolist() == [1, 3]
    assert smallest_set([0.0, 2.0, 0.1, 1.9], 0.3, 0.45).tolist() == [1]
    assert len(smallest_set(np.zeros(10), 1.0, 0.3)) == 7


@settings(max_examples=50, deadline=None)
@given(
    means=st.lists(st.floats(-5, 5), min_size=1, max_size=12),
    deviation=st.floats(0.01, 10),
    deltas=st.tuples(st.floats(0.001, 0.9), st.floats(0.001, 0.9)),
)
def test_a_smaller_risk_keeps_all_that_a_larger_one_keeps(means, deviation, deltas):
    strict, loose = (smallest_set(means, deviation, delta) for delta in sorted(deltas))
    assert set(loose) <= set(strict) and int(np.argmax(means)) in loose
    chance = best_probabilities(means, deviation)
    assert chance.sum() == pytest.approx(1.0)
    assert chance[strict].sum() >= 1 - min(deltas) - 1e-9
    assert chance[strict].sum() - chance[strict].min() < 1 - min(deltas)


@pytest.mark.parametrize("delta", [0.0, 1.0, -0.1, float("nan")])
def test_a_risk_that_is_no_probability_is_an_error(delta):
    with pytest.raises(CalibrationError, match="between 0 and 1"):
        smallest_set([0.0], 1.0, delta)


@pytest.mark.parametrize("delta", [0.05, 0.2])
def test_the_best_branch_is_in_the_set_as_often_as_promised(delta):
    rng = np.random.default_rng(9)
    calibration = fitted([tree(rng, level=rng.normal(scale=2.0)) for _ in range(200)])
    searches, held, kept = 3000, 0, 0
    for _ in range(searches):
        stage = rng.normal(size=8)
        final = SLOPE * stage + NOISE * rng.normal(size=8)
        nodes = [Node((i,), (), 0, {"v": x}) for i, x in enumerate(stage)]
        chosen = smallest_set(*calibration.predict(1, nodes), delta)
        held += int(np.argmax(final)) in chosen
        kept += len(chosen)
    assert held / searches >= 1 - delta
    assert kept / searches < 6
