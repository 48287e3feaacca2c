"""Solver steps on mixtures of Gaussians, whose scores are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tts_jax.solvers import diffusion, flow_matching
from tts_jax.solvers.flow_matching import PyramidSchedule

CENTRES = jnp.asarray([[-1.5, 0.0], [1.0, 1.2], [1.0, -0.6]])
WEIGHTS = jnp.asarray([0.5, 0.3, 0.2])
SPREAD = 0.25
COUNT = 40_000


def mixture(key, signal, sigma):
    """Samples of signal * z + sigma * n with z from the mixture, [COUNT, 2]."""
    keys = jax.random.split(key)
    centres = CENTRES[jax.random.choice(keys[0], 3, (COUNT,), p=WEIGHTS)]
    deviation = jnp.sqrt((signal * SPREAD) ** 2 + sigma**2)
    return signal * centres + deviation * jax.random.normal(keys[1], (COUNT, 2))


def clean_mean(x, signal, sigma):
    """E[z | x]."""
    variance = (signal * SPREAD) ** 2 + sigma**2
    apart = x[:, None] - signal * CENTRES
    share = jax.nn.softmax(jnp.log(WEIGHTS) - (apart**2).sum(-1) / (2 * variance), axis=-1)
    means = CENTRES + signal * SPREAD**2 / variance * apart
    return (share[..., None] * means).sum(1)


def assert_alike(found, wanted):
    """Equal distributions, by histograms along three directions."""
    assert np.isfinite(found).all()
    for direction in ([1.0, 0.0], [0.0, 1.0], [0.6, 0.8]):
        a, b = (np.sort(np.asarray(x @ jnp.asarray(direction))) for x in (found, wanted))
        points = np.quantile(b, np.linspace(0.01, 0.99, 60))
        share = [np.searchsorted(x, points) / len(x) for x in (a, b)]
        assert np.abs(share[0] - share[1]).max() < 0.02


def prediction(x, level, kind):
    signal, sigma = jnp.sqrt(level), jnp.sqrt(1 - level)
    clean = clean_mean(x, signal, sigma)
    noise = (x - signal * clean) / sigma
    return {"clean": clean, "noise": noise, "velocity": signal * noise - sigma * clean}[kind]


LEVELS = jnp.cos(jnp.linspace(0.5 * jnp.pi - 0.02, 0.15, 121)) ** 2


@pytest.mark.parametrize("kind", ["noise", "clean", "velocity"])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_steps_keep_the_marginals(kind, eta):
    keys = jax.random.split(jax.random.key(0), 3)

    def step(x, inputs):
        level, after, key = inputs
        parts = diffusion.split(x, prediction(x, level, kind), level, kind)
        return diffusion.sde_step(parts, level, after, jax.random.normal(key, x.shape), eta), None

    start = mixture(keys[0], jnp.sqrt(LEVELS[0]), jnp.sqrt(1 - LEVELS[0]))
    inputs = LEVELS[:-1], LEVELS[1:], jax.random.split(keys[1], len(LEVELS) - 1)
    found, _ = jax.jit(lambda x: jax.lax.scan(step, x, inputs))(start)
    assert_alike(found, mixture(keys[2], jnp.sqrt(LEVELS[-1]), jnp.sqrt(1 - LEVELS[-1])))


def test_without_noise_the_stochastic_step_is_the_other():
    x, normals = jax.random.normal(jax.random.key(0), (2, 50, 2))
    parts = diffusion.split(x, prediction(x, 0.3, "noise"), 0.3, "noise")
    for after in (0.5, 1.0):
        np.testing.assert_allclose(
            diffusion.sde_step(parts, 0.3, after, normals, 0.0),
            diffusion.ode_step(parts, after),
            atol=1e-6,
        )
    np.testing.assert_allclose(diffusion.ode_step(parts, 0.3), x, atol=1e-6)
    np.testing.assert_allclose(diffusion.ode_step(parts, 1.0), parts.clean, atol=1e-6)


def test_the_full_stochastic_step_forgets_as_the_forward_process_does():
    """Its noise has the posterior variance of x_{t-1} given x_t and z."""
    level, after = 0.3, 0.6
    zeros, normals = jnp.zeros(COUNT), jax.random.normal(jax.random.key(0), (COUNT,))
    parts = diffusion.Parts(zeros, zeros)
    found = diffusion.sde_step(parts, level, after, normals, 1.0).var()
    beta = 1 - level / after
    np.testing.assert_allclose(found, beta * (1 - after) / (1 - level), rtol=0.02)


def test_an_unknown_prediction_is_refused():
    with pytest.raises(ValueError, match="score"):
        diffusion.split(jnp.zeros(2), jnp.zeros(2), 0.5, "score")


def test_noise_added_again_lands_on_the_earlier_marginal():
    keys = jax.random.split(jax.random.key(1), 4)
    level, earlier = 0.9, 0.5
    x = mixture(keys[0], level**0.5, (1 - level) ** 0.5)
    normals = jax.random.normal(keys[1], x.shape)
    found = diffusion.noise_again(x, level, earlier, normals)
    assert_alike(found, mixture(keys[2], earlier**0.5, (1 - earlier) ** 0.5))
    added = diffusion.add_noise(x, level, normals, 0.5) - x
    np.testing.assert_allclose(added.std(), 0.5 * 0.1**0.5, rtol=0.02)


FLOW = PyramidSchedule(stages=1, stage_range=(0.0, 1.0))


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_flow_matching_steps_keep_the_marginals_too(eta):
    keys = jax.random.split(jax.random.key(0), 3)
    ratios = jnp.linspace(0.98, 0.15, 121)

    def step(x, inputs):
        ratio, after, key = inputs
        clean = clean_mean(x, 1 - ratio, ratio)
        velocity = (x - clean) / ratio
        found = flow_matching.clean_estimate(FLOW, 0, x, velocity, ratio)
        normals = jax.random.normal(key, x.shape)
        after = flow_matching.sde_step(FLOW, 0, x, velocity, ratio, after, normals, eta)
        return after, jnp.abs(found - clean).max()

    inputs = ratios[:-1], ratios[1:], jax.random.split(keys[1], len(ratios) - 1)
    start = mixture(keys[0], 0.02, 0.98)
    found, errors = jax.jit(lambda x: jax.lax.scan(step, x, inputs))(start)
    assert errors.max() < 1e-4
    assert_alike(found, mixture(keys[2], 0.85, 0.15))
