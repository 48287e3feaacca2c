import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from tts_jax.solvers.flow_matching import (
    PyramidSchedule,
    add_noise,
    block_noise,
    clean_estimate,
    coarse_noise,
    downsample,
    noise_again,
    ode_step,
    predicted_noise,
    pyramid,
    sde_step,
    stage_jump,
    upsample,
)

TABLES = (
    "start_sigmas",
    "end_sigmas",
    "ori_start_sigmas",
    "timestep_ratios",
    "timesteps_per_stage",
    "sigmas_per_stage",
)


def last(array):
    return np.moveaxis(array, 1, -1)


@pytest.fixture(scope="module")
def reference(golden):
    folder = golden("pyramid_flow_scheduler")
    configs = json.loads((folder / "config.json").read_text())
    schedules = {
        name: PyramidSchedule(**{**fields, "stage_range": tuple(fields["stage_range"])})
        for name, fields in configs.items()
    }
    return schedules, load_file(folder / "io.safetensors")


def test_the_tables_are_those_of_the_original(reference):
    schedules, tensors = reference
    for name, schedule in schedules.items():
        for table in TABLES:
            np.testing.assert_allclose(
                getattr(schedule, table), tensors[f"{name}.{table}"], rtol=1e-6, atol=1e-9
            )


def test_set_timesteps_gives_the_steps_of_the_original(reference):
    schedules, tensors = reference
    cases = [key for key in tensors if ".set_timesteps." in key and key.endswith(".timesteps")]
    assert cases
    for key in cases:
        name, _, steps, stage, _ = key.split(".")
        schedule = schedules[name]
        timesteps, ratios = schedule.set_timesteps(int(steps[1:]), int(stage[5:]))
        np.testing.assert_allclose(timesteps, tensors[key], rtol=1e-6)
        wanted = tensors[key.removesuffix("timesteps") + "sigmas"]
        np.testing.assert_allclose(ratios, wanted, rtol=1e-6, atol=1e-9)


def test_ode_steps_follow_the_original(reference):
    schedules, tensors = reference
    for name, schedule in schedules.items():
        steps = sum(key.startswith(f"{name}.step.model_output") for key in tensors)
        _, ratios = schedule.set_timesteps(steps, 1)
        sample = jnp.asarray(tensors[f"{name}.step.sample0"])
        for k in range(steps):
            velocity = jnp.asarray(tensors[f"{name}.step.model_output{k}"])
            sample = ode_step(sample, velocity, float(ratios[k]), float(ratios[k + 1]))
            np.testing.assert_allclose(
                sample, tensors[f"{name}.step.sample{k + 1}"], rtol=1e-5, atol=1e-5
            )


def test_the_stage_jump_is_that_of_the_original(reference):
    schedules, tensors = reference
    for name, schedule in schedules.items():
        wanted = tensors[f"{name}.jump.alpha_beta"]
        np.testing.assert_allclose(schedule.jump[1:], wanted[1:], rtol=1e-6)
        for stage in range(1, schedule.stages):
            out = stage_jump(
                schedule,
                stage,
                last(tensors[f"{name}.jump.latents_stage{stage - 1}"]),
                last(tensors[f"{name}.jump.block_noise_stage{stage}"]),
            )
            np.testing.assert_allclose(
                out, last(tensors[f"{name}.jump.latents_stage{stage}"]), atol=1e-5
            )


def test_levels_and_initial_noise_are_those_of_the_original(reference):
    schedules, tensors = reference
    levels = sum(key.startswith("pyramid.level") for key in tensors)
    for level, entry in enumerate(pyramid(last(tensors["pyramid.clean"]), levels)):
        np.testing.assert_allclose(entry, last(tensors[f"pyramid.level{level}"]), atol=1e-5)
    stages = schedules["published"].stages
    noise = coarse_noise(last(tensors["initial_noise.full"]), stages - 1)
    np.testing.assert_allclose(noise, last(tensors["initial_noise.stage0"]), atol=1e-5)


def test_block_noise_has_the_covariance_of_the_original(reference):
    schedules, tensors = reference
    for name, schedule in schedules.items():
        # The map is linear and acts on each block alone: feed it the unit vectors of one block.
        units = np.eye(4, dtype=np.float32).reshape(4, 2, 2, 1)
        columns = np.asarray(block_noise(jnp.asarray(units), schedule.gamma)).reshape(4, 4)
        covariance = columns.T @ columns
        np.testing.assert_allclose(covariance, tensors[f"{name}.block_noise.covariance"], atol=1e-6)
        draws = np.asarray(tensors[f"{name}.block_noise.noise"])
        blocks = draws.reshape(*draws.shape[:-2], draws.shape[-2] // 2, 2, draws.shape[-1] // 2, 2)
        blocks = blocks.swapaxes(-3, -2).reshape(-1, 4)
        factor = tensors[f"{name}.block_noise.cholesky"]
        np.testing.assert_allclose(blocks, tensors[f"{name}.block_noise.eps"] @ factor.T, atol=1e-5)


def test_noise_is_white_after_a_jump():
    """Correlated noise added to repeated noise gives independent values of the start's level."""
    schedule = PyramidSchedule()
    for stage in range(1, schedule.stages):
        alpha, beta = schedule.jump[stage]
        covariance = (1 + schedule.gamma) * np.eye(4) - schedule.gamma
        repeated = schedule.end_sigmas[stage - 1] ** 2 * np.ones((4, 4))
        total = alpha**2 * repeated + beta**2 * covariance
        np.testing.assert_allclose(total, schedule.start_sigmas[stage] ** 2 * np.eye(4), atol=2e-3)


def exact_velocity(schedule, stage, latents, ratio, mean, spreads):
    """E[x_start - x_end | x_u]: clean 2x2 means and remainders are normal and independent."""
    start, end = schedule.start_sigmas[stage], schedule.end_sigmas[stage]
    means = upsample(downsample(latents))
    total = jnp.zeros_like(latents)
    for part, centre, spread, signal_start, share in (
        (means, mean, spreads[0], 1 - start, 1 / 4),
        (latents - means, 0.0, spreads[1], 0.0 if stage else 1 - start, 1),
    ):
        signal = ratio * signal_start + (1 - ratio) * (1 - end)
        noise = schedule.noise_level(stage, ratio)
        slope = signal_start - (1 - end)
        residual = (part - signal * centre) / (signal**2 * spread**2 + share * noise**2)
        gain = signal * slope * spread**2 + share * noise * (start - end)
        total += slope * centre + gain * residual
    return total


@pytest.mark.parametrize("stage", [0, 1, 2])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_sde_steps_keep_the_marginals_of_ode_steps(stage, eta):
    schedule = PyramidSchedule(gamma=0.25)
    mean, spreads = 0.7, (0.6, 0.4)
    count, steps = 20_000, 100
    keys = jax.random.split(jax.random.key(0), 3)

    def draw_clean(key):
        z = jax.random.normal(key, (count, 2, 2, 1))
        block = upsample(downsample(z))
        return mean + 2 * spreads[0] * block + spreads[1] * (z - block)

    noise = jax.random.normal(keys[0], (count, 2, 2, 1))
    clean = draw_clean(keys[1])
    before = upsample(downsample(clean)) if stage else clean
    start, end = schedule.start_sigmas[stage], schedule.end_sigmas[stage]
    latents = start * noise + (1 - start) * before

    _, ratios = schedule.set_timesteps(steps, stage)
    ratios = jnp.asarray(ratios, jnp.float32)

    def step(x, inputs):
        ratio, after, key = inputs
        velocity = exact_velocity(schedule, stage, x, ratio, mean, spreads)
        normals = jax.random.normal(key, x.shape)
        return sde_step(schedule, stage, x, velocity, ratio, after, normals, eta), None

    inputs = (ratios[:-1], ratios[1:], jax.random.split(keys[2], steps))
    latents, _ = jax.jit(lambda x: jax.lax.scan(step, x, inputs))(latents)

    blocks = downsample(latents)
    np.testing.assert_allclose(blocks.mean(), (1 - end) * mean, atol=0.02)
    np.testing.assert_allclose(
        blocks.var(), (1 - end) ** 2 * spreads[0] ** 2 + end**2 / 4, rtol=0.06
    )
    remainders = latents - upsample(blocks)
    wanted = 0.75 * ((1 - end) ** 2 * spreads[1] ** 2 + end**2)
    np.testing.assert_allclose((remainders**2).mean(), wanted, rtol=0.06)


def stage_sample(schedule, stage, ratio, clean, noise):
    """x_u by its definition, for clean latents at the stage's resolution."""
    start, end = schedule.start_sigmas[stage], schedule.end_sigmas[stage]
    before = upsample(downsample(clean)) if stage else clean
    x_start = start * noise + (1 - start) * before
    x_end = end * noise + (1 - end) * clean
    return ratio * x_start + (1 - ratio) * x_end, x_start - x_end


@pytest.mark.parametrize("stage", [0, 1, 2])
@pytest.mark.parametrize("ratio", [1.0, 0.4, 0.0])
def test_an_exact_velocity_tells_noise_and_clean_latents(stage, ratio):
    schedule = PyramidSchedule(gamma=0.25)
    clean, noise = jax.random.normal(jax.random.key(0), (2, 3, 8, 6, 2))
    latents, velocity = stage_sample(schedule, stage, ratio, clean, noise)
    found = clean_estimate(schedule, stage, latents, velocity, ratio)
    np.testing.assert_allclose(found, clean, atol=1e-4)
    if stage < 2 or ratio:
        found = predicted_noise(schedule, stage, latents, velocity, ratio)
        np.testing.assert_allclose(found, noise, atol=1e-4)


@pytest.mark.parametrize(
    ("place", "earlier"),
    [
        ((0, 0.3), (0, 0.9)),
        ((2, 0.0), (2, 0.6)),
        ((1, 0.4), (1, 1.0)),
        ((1, 0.001), (0, 0.2)),
        ((2, 1.0), (1, 0.0)),
        ((2, 0.0), (0, 0.5)),
    ],
)
def test_noise_added_again_gives_the_earlier_place_its_signal_and_its_noise(place, earlier):
    schedule = PyramidSchedule()
    keys = jax.random.split(jax.random.key(0), 3)
    size = 4 * 2 ** place[0]
    clean = jax.random.normal(keys[0], (size, size, 1))
    noise = jax.random.normal(keys[1], (8000, size, size, 1))
    latents, _ = stage_sample(schedule, *place, clean, noise)
    small = clean
    for _ in range(place[0] - earlier[0]):
        small = downsample(small)
    normals = jax.random.normal(keys[2], (8000, *small.shape))
    found = noise_again(schedule, latents, place, earlier, normals)
    data, _ = stage_sample(schedule, *earlier, small, 0.0)
    np.testing.assert_allclose(found.mean(0), data, atol=0.05)
    level = schedule.noise_level(*earlier)
    rest = (found - data).reshape(8000, -1)
    covariance = rest.T @ rest / 8000
    # A jump makes its start's noise white but for rounding of the tables.
    np.testing.assert_allclose(covariance, level**2 * np.eye(small.size), atol=0.07 * level**2)


def test_noise_is_not_added_again_at_a_later_place():
    schedule, latents = PyramidSchedule(), jnp.zeros((4, 4, 1))
    for place, later in (((1, 0.5), (1, 0.5)), ((1, 0.5), (1, 0.2)), ((0, 0.5), (1, 1.0))):
        with pytest.raises(ValueError, match="earlier"):
            noise_again(schedule, latents, place, later, latents)


def test_noise_of_the_same_level_is_added_in_parts_of_it():
    schedule = PyramidSchedule()
    zeros, normals = jnp.zeros(4), jnp.arange(4.0)
    found = add_noise(schedule, 1, zeros, 1.0, normals, 0.5)
    np.testing.assert_allclose(found, 0.5 * schedule.start_sigmas[1] * normals)
