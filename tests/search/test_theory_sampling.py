"""What searches sample from: marginals of stochastic steps, tilted distributions of steering.

Seeds are fixed. Means are compared at four standard errors, beyond which one comparison in 16000
would fall by chance, or one in 200 where the error comes from eight runs, plus the bias of the
solver where the reference is the mixture itself and not its solver.
"""

from itertools import pairwise

import numpy as np
import pytest

from tests.search.analytic import (
    Diffusion,
    Exact,
    Flow,
    Linear,
    Mixture,
    direction,
    make_search,
    preset,
)
from tts_jax.search import ROOT, Renoise, Round

MIXTURE = Mixture.random()
ALONG = direction()
BLOCKS, STEPS = 4, 8
# Of 32 steps, in the units of the rewards, whose deviation is 1.
BIAS = 0.1


@pytest.fixture(scope="module")
def models():
    """Searches by process and eta, all particles at once."""
    made = {}

    def get(process, eta, units=1):
        key = process, eta, units
        if key not in made:
            mixture = MIXTURE if units == 1 else Mixture.random(frames=1)
            generator = Exact(mixture, process, units, BLOCKS, STEPS, eta=eta)
            reward = Linear(ALONG if units == 1 else direction(units))
            made[key] = make_search(generator, reward, exact=False)
        return made[key]

    return get


def agree(values, expected, bias=BIAS):
    """Whether the mean of independent values is the expected one."""
    error = np.std(values, ddof=1) / np.sqrt(len(values))
    assert abs(np.mean(values) - expected) < 4 * error + bias, (np.mean(values), expected, error)


def latents(result):
    return np.stack([node.latents for node in result.candidates]).astype(np.float64)


def check_marginals(z):
    along = (z * ALONG).sum((1, 2, 3, 4))
    agree(along, MIXTURE.mean(ALONG))
    agree(along**2, MIXTURE.second(ALONG))
    nearest = ((z[:, None] - MIXTURE.means) ** 2).sum((2, 3, 4, 5)).argmin(1)
    for component, weight in enumerate(MIXTURE.weights):
        agree(nearest == component, weight, bias=0.02)


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("process", [Diffusion, Flow])
def test_stochastic_steps_keep_the_marginals(models, process, eta):
    """Two components of three lie near each other, so that their split is a sharp test."""
    result = models(process, eta).run("x", preset("random_linear", branches=512), seed=3)
    check_marginals(latents(result))


@pytest.mark.parametrize("process", [Diffusion, Flow])
def test_noising_again_keeps_the_marginals(models, process):
    """From depth 3 back to 1 and, at the end, back to 2."""

    def search(outline, rng):
        live = yield Round(parents=[ROOT], children=512, to=3)
        live = yield Round(parents=live, propose=Renoise(1), to=4)
        yield Round(parents=live, propose=Renoise(2), to=4, judges="panel")

    result = models(process, 1.0).run("x", search, seed=4)
    check_marginals(latents(result))


def test_units_follow_their_mixture_around_the_unit_before(models):
    search = models(Flow, 1.0, 3)
    mixture, follow = search.generator.mixture, search.generator.follow
    z = latents(search.run("x", preset("random_linear", branches=512), seed=5))
    along = (z * direction(1)).sum((2, 3, 4))
    mean = mixture.mean(direction(1))
    variance = mixture.second(direction(1)) - mean**2
    expected, spread = 0.0, 0.0
    for unit in range(3):
        before = spread
        expected, spread = follow * expected + mean, follow**2 * spread + variance
        agree(along[:, unit], expected)
        agree((along[:, unit] - expected) ** 2, spread, bias=2 * BIAS)
        if unit:
            last = along[:, unit - 1] - along[:, unit - 1].mean()
            agree(last * (along[:, unit] - expected), follow * before)


STRENGTH = 1.0


@pytest.fixture(scope="module")
def ancestral():
    """Rewards of fifty thousand samples of the same solver, by numpy alone."""
    rng = np.random.default_rng(11)
    means = MIXTURE.means.reshape(3, -1)
    levels = np.sin(np.pi / 2 * np.arange(BLOCKS * STEPS + 1) / (BLOCKS * STEPS)) ** 2
    x = rng.standard_normal((50_000, means.shape[1]))
    for a, b in pairwise(levels):
        total = a * MIXTURE.deviation**2 + 1 - a
        distance = (x**2).sum(1)[:, None] - 2 * np.sqrt(a) * x @ means.T + a * (means**2).sum(1)
        logs = np.log(MIXTURE.weights) - distance / 2 / total
        chances = np.exp(logs - logs.max(1, keepdims=True))
        chances /= chances.sum(1, keepdims=True)
        shrink = np.sqrt(a) * MIXTURE.deviation**2 / total
        z = shrink * x + (1 - shrink * np.sqrt(a)) * chances @ means
        n = (x - np.sqrt(a) * z) / np.sqrt(1 - a)
        fresh = (1 - b) / (1 - a) * (1 - a / b)
        x = np.sqrt(b) * z + np.sqrt(max(1 - b - fresh, 0)) * n
        x += np.sqrt(fresh) * rng.standard_normal(x.shape)
    return x @ ALONG.ravel()


def test_the_solver_alone_is_near_the_tilted_mixture(ancestral):
    """So that steering towards the solver's tilted distribution steers towards the mixture's."""
    weights = np.exp(STRENGTH * ancestral)
    tilted = MIXTURE.tilted(ALONG, STRENGTH)
    assert np.average(ancestral, weights=weights) == pytest.approx(tilted.mean(ALONG), abs=BIAS)
    assert np.average(ancestral**2, weights=weights) == pytest.approx(
        tilted.second(ALONG), abs=BIAS
    )
    assert tilted.mean(ALONG) - MIXTURE.mean(ALONG) > 8 * BIAS


@pytest.mark.parametrize(
    ("potential", "resample_below"),
    [("diff", 0.8), ("diff", 1.0), ("max", 0.5), ("add", 0.8), ("value", 1.0)],
)
def test_weighted_samples_of_steering_follow_the_tilted_distribution(
    models, ancestral, potential, resample_below
):
    """Eight runs of 192 particles each, whose own estimates give the error."""
    weights = np.exp(STRENGTH * ancestral)
    chosen = preset(
        "fk_steering",
        particles=192,
        tilt=STRENGTH,
        potential=potential,
        resample_below=resample_below,
    )
    found, resampled = [], 0
    for seed in range(8):
        result = models(Diffusion, 1.0).run("x", chosen, seed=seed, keep_frames=False)
        rewards = (latents(result) * ALONG).sum((1, 2, 3, 4))
        logs = np.array([result.weights[node.path] for node in result.candidates])
        chances = np.exp(logs - logs.max())
        found.append([np.average(rewards**power, weights=chances) for power in (1, 2)])
        resampled += sum(request.label == "systematic" for request in result.requests)
    assert resampled >= 8
    for power, estimates in zip((1, 2), np.array(found).T, strict=True):
        agree(estimates, np.average(ancestral**power, weights=weights), bias=0.02)
