"""Our solvers of Wan take the steps that those of the diffusers package take."""

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

from tts_jax.generators.wan.scheduler import Schedule
from tts_jax.solvers import rectified_flow

SHAPE = (2, 3, 4)
TOLERANCE = 2e-5


def make(kind, steps, shift):
    if kind == "unipc":
        reference = UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift
        )
    else:
        reference = FlowMatchEulerDiscreteScheduler(shift=shift)
    config = dict(reference.config) | {"_class_name": type(reference).__name__}
    reference.set_timesteps(steps)
    return reference, Schedule(steps=steps, **Schedule.read_reference(config))


def trajectory(schedule, latents, velocities):
    """Uncorrected states of a whole run of ours, to which the velocities belong."""
    levels = schedule.levels.astype(np.float32)
    predictor, corrector = (
        [np.float32(column) for column in part] for part in schedule.coefficients
    )
    previous = np.zeros(SHAPE, np.float32)
    clean = rectified_flow.clean_estimate(latents, velocities[0], levels[0])
    states = []
    for i in range(schedule.steps):
        terms = latents, clean, previous
        latents = sum(a[i] * x for a, x in zip(predictor[:3], terms, strict=True))
        states.append(latents)
        if i + 1 < schedule.steps:
            ahead = rectified_flow.clean_estimate(latents, velocities[i + 1], levels[i + 1])
            terms = clean, previous, ahead
            latents = latents + sum(a[i] * x for a, x in zip(corrector, terms, strict=True))
            previous, clean = clean, ahead
    return states


def draw(count):
    latents, *velocities = np.random.default_rng(count).normal(size=(1 + count, *SHAPE))
    return np.float32(latents), np.float32(velocities)


@pytest.mark.parametrize("kind", ["unipc", "euler"])
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 30, 50])
@pytest.mark.parametrize("shift", [1.0, 3.0, 5.0])
def test_every_step_is_that_of_the_reference(kind, steps, shift):
    reference, schedule = make(kind, steps, shift)
    np.testing.assert_allclose(schedule.levels, reference.sigmas.numpy(), atol=1e-7)
    np.testing.assert_allclose(schedule.timesteps, reference.timesteps.numpy(), rtol=1e-6)
    latents, velocities = draw(steps)
    x, states = torch.tensor(latents), []
    for time, velocity in zip(reference.timesteps, velocities, strict=True):
        x = reference.step(torch.tensor(velocity), time, x, return_dict=False)[0]
        states.append(x.numpy())
    for ours, theirs in zip(trajectory(schedule, latents, velocities), states, strict=True):
        assert np.abs(ours - theirs).max() <= TOLERANCE * np.abs(theirs).max()


@pytest.mark.parametrize("solver", ["unipc", "euler"])
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_any_share_of_noise_keeps_the_levels(solver, eta):
    """With the exact clean estimate z, a state of z and noise s becomes one of z and noise s'."""
    schedule = Schedule(solver=solver, eta=eta, steps=20)
    a, correction = schedule.coefficients
    level, after = schedule.levels[:-1], schedule.levels[1:]
    np.testing.assert_allclose((a.latents * level) ** 2 + a.noise**2, after**2, atol=1e-12)
    mean = a.latents * (1 - level) + a.clean + a.previous
    np.testing.assert_allclose(mean, 1 - after, atol=1e-12)
    np.testing.assert_allclose(sum(correction), 0.0, atol=1e-12)
    assert (a.noise[:-1] > 0).all() == bool(eta)


@pytest.mark.parametrize(
    "changes",
    [
        dict(prediction_type="epsilon"),
        dict(use_flow_sigmas=False),
        dict(solver_order=3),
        dict(solver_type="bh1"),
        dict(_class_name="DDIMScheduler"),
    ],
)
def test_settings_that_no_checkpoint_has_are_refused(changes):
    reference, _ = make("unipc", 2, 3.0)
    config = dict(reference.config) | {"_class_name": "UniPCMultistepScheduler"} | changes
    with pytest.raises(ValueError, match=next(iter(changes))):
        Schedule.read_reference(config)


@pytest.mark.parametrize(
    "field, value", [("solver", "heun"), ("steps", 0), ("eta", 1.5), ("shift", 0.0)]
)
def test_impossible_settings_are_refused(field, value):
    with pytest.raises(ValueError, match=field):
        Schedule(**{field: value})
