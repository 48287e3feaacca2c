"""Searches beside independent computations of them, and their gains where these are certain."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.search.analytic import (
    NOISE_TAG,
    Diffusion,
    Exact,
    Flow,
    Linear,
    Mixture,
    direction,
    make_search,
    preset,
)
from tts_jax.search import ROOT, Neighbour, Round
from tts_jax.search.paths import Move
from tts_jax.solvers import noise

BLOCKS, STEPS = 3, 2
MIXTURE = Mixture.random()
LEVELS = np.sin(np.pi / 2 * np.arange(BLOCKS * STEPS + 1) / (BLOCKS * STEPS)) ** 2


@pytest.fixture(scope="module")
def whole():
    """Full-sequence, with the squared distance to a target that is never reached."""
    target = Linear(MIXTURE.means[0] + 0.3, squared=True)
    return make_search(Exact(MIXTURE, Diffusion, 1, BLOCKS, STEPS), target, exact=False)


class Pencil:
    """Diffusion latent beam search by numpy, in float64, one branch after another."""

    def __init__(self, verifier, ahead):
        self.verifier, self.ahead = verifier, ahead

    def denoise(self, x, level):
        total = level * MIXTURE.deviation**2 + 1 - level
        logs = [
            np.log(weight) - ((x - np.sqrt(level) * mean) ** 2).sum() / 2 / total
            for weight, mean in zip(MIXTURE.weights, MIXTURE.means, strict=True)
        ]
        chances = np.exp(np.array(logs) - max(logs))
        chances /= chances.sum()
        shrink = np.sqrt(level) * MIXTURE.deviation**2 / total
        each = [mean + shrink * (x - np.sqrt(level) * mean) for mean in MIXTURE.means]
        return np.tensordot(chances, each, 1)

    def ddim(self, x, level, after, eta, draw=0.0):
        """Song et al. 2020, equation 12, from the predicted noise."""
        clean = self.denoise(x, level)
        predicted = (x - np.sqrt(level) * clean) / np.sqrt(1 - level)
        sigma = eta * np.sqrt((1 - after) / (1 - level)) * np.sqrt(1 - level / after)
        return (
            np.sqrt(after) * clean
            + np.sqrt(max(1 - after - sigma**2, 0)) * predicted
            + sigma * draw
        )

    def grow(self, x, key, segment):
        own = jax.random.fold_in(key, NOISE_TAG)

        def draw(tag):
            return np.asarray(
                jax.random.normal(jax.random.fold_in(own, tag), MIXTURE.means[0].shape)
            )

        if segment == 0:
            x = draw(STEPS).astype(np.float64)
        for i in range(STEPS):
            at = segment * STEPS + i
            x = self.ddim(x, LEVELS[at], LEVELS[at + 1], 1.0, draw(i))
        return x

    def value(self, x, depth):
        """Of the end of DDIM in so many steps more, as far as the steps that are left."""
        left = (BLOCKS - depth) * STEPS
        if left:
            places = np.linspace(depth * STEPS, BLOCKS * STEPS, min(self.ahead, left - 1) + 2)
            for level, after in pairwise(np.interp(places, np.arange(len(LEVELS)), LEVELS)):
                x = self.ddim(x, level, after, 0.0)
        return self.verifier.value(x)

    def search(self, beams, children):
        """Everything that was judged, path to value, and the winner's path."""
        root = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), 0), 0)
        live, judged = [((), None, root)], {}
        for depth in range(1, BLOCKS + 1):
            made = []
            for path, x, key in live:
                for child in range(children if path else beams * children):
                    own = jax.random.fold_in(key, child)
                    made.append(((*path, child), self.grow(x, own, depth - 1), own))
            judged |= {path: self.value(x, depth) for path, x, _ in made}
            live = sorted(made, key=lambda m: -judged[m[0]])[:beams]
        return judged, live[0][0]


@pytest.mark.parametrize("ahead", [1, 2, 4])
def test_beam_search_with_look_ahead_is_that_of_a_pencil(whole, ahead):
    """One step ahead is the clean estimate; more are DDIM of one call each and its estimate."""
    result = whole.run("x", preset("beam", beams=2, children=3, look_ahead=ahead))
    (verifier,) = whole.panel.verifiers
    judged, winner = Pencil(verifier, 0 if ahead == 1 else ahead).search(2, 3)
    assert {node.path for node in result.nodes} == set(judged)
    for node in result.nodes:
        assert node.scores["reward"] == pytest.approx(judged[node.path], rel=1e-3, abs=1e-3)
    assert result.best.path == winner


def test_greedy_search_of_one_chain_is_beam_search_of_one_beam(whole):
    greedy = whole.run("x", preset("greedy", chains=1, children=4), seed=6)
    beam = whole.run("x", preset("beam", beams=1, children=4, look_ahead=1), seed=6)
    assert [n.path for n in greedy.nodes] == [n.path for n in beam.nodes]
    assert [n.scores for n in greedy.nodes] == [n.scores for n in beam.nodes]
    np.testing.assert_array_equal(greedy.best.frames, beam.best.frames)


class Noise:
    """A generator whose videos are their noise, in two draws of different sizes."""

    num_segments, units, stochastic, renoises, looks_ahead = 2, (1, 1), False, False, False
    params = jnp.zeros(())

    def encode(self, params, prompts):
        return jnp.zeros((len(prompts), 1))

    def init(self, params, condition, key):
        return jnp.zeros((5, 4, 4, 3))

    def advance(self, params, condition, branch, key, segment, program=None):
        start, size = ((0, 2), (2, 3))[segment]
        return branch.at[start : start + size].set(noise.normal(key, (size, 4, 4, 3)))

    def estimate(self, params, condition, branch, segment, look="committed"):
        return branch[: (2, 5)[segment]]

    def estimate_nfe(self, segment, look):
        return 0

    def draft(self):
        return None

    def decode(self, params, latents):
        return jnp.clip(0.5 + latents / 24, 0, 1)

    def nfe(self, segment):
        return 1

    def program(self, segment):
        return segment


@pytest.fixture(scope="module")
def draws():
    return make_search(Noise(), Linear(direction(5).repeat(2, 1).repeat(2, 2)), exact=False)


def cosine(one, other):
    return float((one * other).sum() / np.sqrt((one**2).sum() * (other**2).sum()))


@pytest.mark.parametrize("strength", [0.95, 0.4])
def test_neighbours_of_noise_are_at_its_distance_and_angle(draws, strength):
    """Every draw by itself, those of the pivot's pivot too."""
    chosen = preset("zero_order", neighbours=4, iterations=3, strength=strength)
    result = draws.run("x", chosen)
    videos = {node.path: node.latents for node in result.candidates}
    moved = [path for path in videos if any(isinstance(step, Move) for step in path)]
    assert len(moved) == 12
    for path in moved:
        last = max(i for i, step in enumerate(path) if isinstance(step, Move))
        pivot = videos[path[:last] + path[last + 1 :]]
        for part in (slice(0, 2), slice(2, 5)):
            new, old = videos[path][part], pivot[part]
            assert cosine(new, old) == pytest.approx(strength, abs=1e-5)
            assert (new**2).sum() == pytest.approx((old**2).sum(), rel=1e-5)
    # A further move starts from what the moves before it made.
    assert max(sum(isinstance(s, Move) for s in path) for path in moved) >= 2


def test_neighbours_of_white_noise_are_white_noise(draws):
    """Four standard errors; the four neighbours of each of 64 draws are of one length."""

    def search(outline, rng):
        live = yield Round(parents=[ROOT], children=64, to=1)
        yield Round(parents=live, children=4, propose=Neighbour(0.5), to=2, judges="panel")

    values = np.stack([n.latents for n in draws.run("x", search).candidates])
    first, second = (values[:, part].reshape(64, 4, -1) for part in (slice(0, 2), slice(2, 5)))
    assert (first == first[:, :1]).all()
    number = second[:, 0].size
    assert abs(second.mean()) < 4 / np.sqrt(number)
    assert abs((second**2).mean() - 1) < 4 * np.sqrt(2 / number)
    pairs = [cosine(own[0], own[1]) for own in second]
    assert abs(np.mean(pairs) - 0.5**2) < 4 * np.std(pairs, ddof=1) / np.sqrt(64)


def test_mutants_of_noise_are_at_the_angle_of_their_variance(draws):
    """EvoSearch at depth 0: sqrt(1 - beta^2) x + beta eps, on the sphere of x."""
    chosen = preset(
        "evolutionary", schedule=(0,), sizes=(4, 6), elites=2, mutation=0.6, tournament=1.0
    )
    result = draws.run("x", chosen)
    videos = {node.path: node.latents for node in result.candidates}
    best = max(result.candidates[:4], key=lambda node: node.value)
    moved = [path for path in videos if isinstance(path[0], Move)]
    assert len(moved) == 6
    assert sum(path[1:] == best.path for path in moved) >= 5
    for path in moved:
        assert cosine(videos[path], videos[path[1:]]) == pytest.approx(0.8, abs=1e-2)
        assert cosine(videos[path][:2], videos[path[1:]][:2]) == pytest.approx(0.8, abs=1e-5)


def gains(search, chosen, other, seeds=24):
    """Final value of one search less that of another, for each seed."""
    runs = [
        [search.run("x", each, seed=seed, keep_frames=False) for each in (chosen, other)]
        for seed in range(seeds)
    ]
    for one, two in runs:
        assert one.ledger.total.nfe <= two.ledger.total.nfe
    return np.array(
        [
            one.incumbents[-1].scores["reward"] - two.incumbents[-1].scores["reward"]
            for one, two in runs
        ]
    )


def surely_better(differences):
    """Four standard errors of the mean."""
    return differences.mean() > 4 * differences.std(ddof=1) / np.sqrt(len(differences))


@pytest.fixture(scope="module")
def apart():
    """Three units that do not depend on each other, and a reward that adds up over them."""
    generator = Exact(Mixture.random(frames=1), Flow, 3, 2, 2, follow=0.0)
    return make_search(generator, Linear(direction(3)), exact=False)


def test_choosing_unit_by_unit_beats_choosing_videos(apart):
    """Rewards that add up: the sum of the best is no less than the best of the sums."""
    tree = preset("tree_of_frames", branching=(6, 6, 6), judge_depths=(0, 1), keep=(1, 1))
    assert surely_better(gains(apart, tree, preset("random_linear", branches=6)))


@pytest.mark.parametrize(
    "fields",
    [
        dict(name="beam", beams=2, children=4, look_ahead=1),
        dict(name="greedy", chains=1, children=8),
        dict(name="fk_steering", particles=8, tilt=2.0, resample_below=1.0),
        dict(name="rollover_budget", quota=8, batch=8),
    ],
    ids=lambda fields: fields["name"],
)
def test_choosing_between_noises_on_the_way_beats_choosing_videos(whole, fields):
    assert surely_better(gains(whole, preset(**fields), preset("random_linear", branches=8)))


def test_the_optimum_bounds_every_search(whole):
    """No video is worth more than the target itself, and the best of a search is its winner."""
    (verifier,) = whole.panel.verifiers
    fields = {"beam": {}, "search_over_paths": {}, "evolutionary": dict(schedule=(1, 2))}
    for name, own in fields.items():
        result = whole.run("x", preset(name, **own))
        values = [node.scores["reward"] for node in result.candidates]
        assert max(values) <= 0
        best = result.incumbents[-1]
        assert best.scores["reward"] == pytest.approx(verifier.value(best.latents), rel=1e-4)
        assert best.scores["reward"] == max(values)
