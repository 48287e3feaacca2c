"""Searches that keep some of many branches: beam, greedy, steering, halving, evolution."""

import math

import numpy as np
import pytest

from tests.search.driver import CHAIN, ONE, OUTLINES, UNITS, hashed, run, tied
from tts_jax.search import Move, Outline


@pytest.mark.parametrize("outline", ["chain", "long"])
@pytest.mark.parametrize(("every", "ahead"), [(1, 1), (1, 6), (4, 3)])
def test_beam_search_costs_its_formula(outline, every, ahead):
    outline = OUTLINES[outline]
    result = run("beam", outline, beams=3, children=4, every=every, look_ahead=ahead)
    judged = -(-outline.num_segments // every)
    extra = 12 * ahead * (judged - 1) if ahead > 1 else 0
    assert result.nfe == 12 * sum(outline.nfe) + extra
    assert result.decodes == 12 * judged
    assert {len(r.parents) for r in result.rounds[1:]} == {3}


def test_beams_come_from_anywhere_and_greedy_chains_stay_apart():
    score = lambda path: float(path[0] == 0)  # noqa: E731
    beams = run("beam", CHAIN, score, beams=2, children=3)
    assert {n.path[0] for n in beams.nodes[2]} == {0}
    chains = run("greedy", CHAIN, score, chains=2, children=3)
    assert {n.path[0] for n in chains.nodes[2]} == {0, 3}


@pytest.mark.parametrize("alpha", [0.0, 0.3])
def test_greedy_search_costs_its_formula(alpha):
    result = run("greedy", CHAIN, chains=3, children=5, every=2, alpha=alpha)
    assert (result.nfe, result.decodes) == (15 * ONE["chain"], 15 * 5)
    assert {len(r.parents) for r in result.rounds[1:]} == {3}


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_steering_keeps_its_number_of_particles(share):
    result = run("fk_steering", CHAIN, particles=6, depths=(2, 4, 8), resample_below=share)
    assert (result.nfe, result.decodes) == (6 * ONE["chain"], 24)
    assert set(result.widths) == {6} and len(result.weights) == 6
    forks = [max([1, *r.children]) > 1 for r in result.rounds[1:]]
    assert any(forks) == (share > 0)


TILT, GAIN = 1.0, 0.7


@pytest.mark.parametrize("potential", ["diff", "max", "add", "value"])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_steered_samples_follow_the_tilted_distribution(potential, share):
    """Three coins of +-1 each, and a reward of 0.7 for each head: tilted, P(x) ~ exp(0.7 x)."""
    outline = Outline(units=(1, 1, 1), nfe=(1, 1, 1))
    sums = np.zeros(3)
    for seed in range(20):

        def coins(path, seed=seed):
            return [1 if hashed(path[: i + 1], seed) > 0 else -1 for i in range(len(path))]

        result = run(
            "fk_steering",
            outline,
            lambda path, coins=coins: GAIN * sum(coins(path)),
            seed,
            particles=100,
            tilt=TILT,
            potential=potential,
            resample_below=share,
        )
        weights = np.exp(list(result.weights.values()))
        sums += weights @ np.array([coins(path) for path in result.weights]) / weights.sum()
    np.testing.assert_allclose(sums / 20, math.tanh(TILT * GAIN), atol=0.08)


def test_a_particle_without_a_reward_has_no_weight():
    dead = lambda path: math.nan if path[0] == 1 else 0.0  # noqa: E731
    result = run("fk_steering", CHAIN, dead, particles=3, depths=(5,), resample_below=0.0)
    assert [w == -math.inf for w in result.weights.values()] == [False, True, False]
    again = run("fk_steering", CHAIN, dead, particles=3, depths=(5,), resample_below=1.0)
    assert 1 not in {path[0] for path in again.weights}


def test_successive_halving_costs_its_widths():
    result = run("successive_halving", CHAIN, widths=(8, 4, 1), depths=(2, 5))
    assert result.nfe == 8 * 5 + 4 * 6 + 10
    assert result.decodes == 8 + 4 + 1


class Calibration:
    """Predicts what the hash of a whole path will be, as well as it is told."""

    def __init__(self, deviation, silent=()):
        self.deviation, self.silent = deviation, silent

    def predict(self, depth, nodes):
        if depth in self.silent:
            return None
        return np.array([node.value for node in nodes]), self.deviation


def test_a_calibration_keeps_what_may_win_and_skips_depths_that_say_little():
    fields = dict(widths=(8, 8, 8), depths=(2, 5), delta=0.1)
    sure = run("successive_halving", CHAIN, calibration=Calibration(1e-9), **fields)
    assert sure.widths == [8, 1, 1]
    unsure = run("successive_halving", CHAIN, calibration=Calibration(1e9), **fields)
    assert unsure.widths == [8, 8, 8]
    capped = fields | dict(widths=(8, 3, 2))
    assert run("successive_halving", CHAIN, calibration=Calibration(1e9), **capped).widths == [
        8,
        3,
        2,
    ]
    deaf = run("successive_halving", CHAIN, calibration=Calibration(1e-9, silent=(2,)), **fields)
    assert [r.to for r in deaf.rounds] == [5, 10]


FIFTY = Outline(units=(50,), nfe=(1,) * 50, stochastic=True, renoises=True)


@pytest.mark.parametrize(
    ("schedule", "sizes", "elites", "nfe"),
    [
        ((5, 20, 30, 45), (10, 5, 5, 5, 5), 2, 1000),
        ((5, 20, 30, 40), (14, 7, 7, 7, 10), 3, 1465),
        ((0, 20, 30, 40), (42, 26, 26, 26, 30), 5, 5000),
        ((5, 20), (6, 3, 3), 0, 6 * 50 + 3 * 45 + 3 * 30),
    ],
)
def test_evolutionary_search_costs_as_published(schedule, sizes, elites, nfe):
    fields = dict(schedule=schedule, sizes=sizes, elites=elites)
    for score in (tied, hashed):
        result = run("evolutionary", FIFTY, score, **fields)
        assert (result.nfe, result.decodes) == (nfe, sum(sizes))


def test_generations_descend_from_all_states_at_their_depth():
    result = run("evolutionary", FIFTY, schedule=(5, 20), sizes=(10, 8, 20), tournament=0.05)
    (last,) = (r for r in result.rounds if "elites" in r.label and r.to == 50 and r.along)
    origins = {parent.round for parent in last.parents}
    assert len(origins) > 1, "of the first generation and of the second"
    values = {n.path: n.value for n in result.videos[:18]}
    elites = [p for p in last.along if not any(isinstance(s, Move) for s in p[20:])]
    best = sorted(values, key=values.get)[-2:]
    assert any(p[:20] in {b[: len(p[:20])] for b in best} for p in elites)


def test_mutants_at_the_start_are_neighbours_of_individuals():
    result = run("evolutionary", FIFTY, schedule=(0, 20), sizes=(4, 6, 2), mutation=0.6)
    second = result.nodes[2]
    assert {path[0] for path in (n.path for n in second)} == {
        Move("neighbour", i, 0, 0.8) for i in range(6)
    }
    assert {n.path[1] for n in second} <= set(range(4))


def test_between_units_a_mutant_is_another_next_unit():
    result = run("evolutionary", UNITS, schedule=(2,), sizes=(4, 6))
    assert (result.nfe, result.decodes) == (4 * ONE["units"] + 6 * 9, 10)
    assert all(isinstance(step, int) for n in result.videos for step in n.path)
