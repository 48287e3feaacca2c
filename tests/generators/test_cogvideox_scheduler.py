"""Our CogVideoX solvers take the steps that those of the diffusers package take."""

import math

import numpy as np
import pytest
import torch
from diffusers import CogVideoXDDIMScheduler, CogVideoXDPMScheduler
from diffusers.schedulers import scheduling_dpm_cogvideox

from tts_jax.generators.cogvideox.scheduler import Schedule
from tts_jax.solvers import diffusion

PUBLISHED = dict(
    beta_start=0.00085,
    beta_end=0.012,
    beta_schedule="scaled_linear",
    clip_sample=False,
    prediction_type="v_prediction",
    rescale_betas_zero_snr=True,
    set_alpha_to_one=True,
    timestep_spacing="trailing",
)
SHAPE = (2, 3, 4)


def make(kind, steps, **changes):
    reference = kind(**PUBLISHED | changes)
    reference.set_timesteps(steps)
    config = dict(reference.config) | {"_class_name": kind.__name__}
    return reference, Schedule(steps=steps, **Schedule.read_reference(config))


def trajectory(schedule, latents, velocities, normals):
    """States and clean estimates of a whole run of ours, the initial state first."""
    previous, states, cleans = np.zeros(SHAPE), [latents], []
    for i, velocity in enumerate(velocities):
        row = [column[i] for column in schedule.coefficients]
        clean = diffusion.split(
            states[-1], velocity, np.float32(schedule.levels[i]), "velocity"
        ).clean
        terms = states[-1], clean, previous, normals[i]
        states.append(sum(np.float32(a) * x for a, x in zip(row, terms, strict=True)))
        cleans.append(clean)
        previous = clean
    return states[1:], cleans


def assert_close(found, wanted, tolerance=1e-5):
    for ours, theirs in zip(found, wanted, strict=True):
        theirs = theirs.numpy()
        assert np.abs(np.asarray(ours) - theirs).max() <= tolerance * np.abs(theirs).max()


def draw(count):
    random = np.random.default_rng(count)
    latents, *rest = random.normal(size=(1 + 2 * count, *SHAPE)).astype(np.float32)
    return latents, rest[:count], rest[count:]


@pytest.mark.parametrize("steps", [1, 2, 7, 30, 50])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_ddim_trajectories_are_those_of_the_reference(steps, shift):
    reference, schedule = make(CogVideoXDDIMScheduler, steps, snr_shift_scale=shift)
    assert schedule.timesteps.tolist() == reference.timesteps.tolist()
    latents, velocities, normals = draw(len(reference.timesteps))
    x, states, cleans = torch.tensor(latents), [], []
    for time, velocity in zip(reference.timesteps, velocities, strict=True):
        x, clean = reference.step(torch.tensor(velocity), time, x, return_dict=False)
        states.append(x)
        cleans.append(clean)
    ours = trajectory(schedule, latents, velocities, normals)
    assert_close(ours[0], states)
    assert_close(ours[1], cleans)
    assert not schedule.coefficients.noise.any()


@pytest.mark.parametrize("steps", [1, 2, 7, 30, 50])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_dpm_trajectories_are_those_of_the_reference(steps, shift, monkeypatch):
    reference, schedule = make(CogVideoXDPMScheduler, steps, snr_shift_scale=shift)
    times = reference.timesteps
    latents, velocities, normals = draw(len(times))
    x, old, states, cleans = torch.tensor(latents), None, [], []
    for i, velocity in enumerate(velocities):
        noise = torch.tensor(normals[i])  # a second-order step draws twice and drops the first
        monkeypatch.setattr(scheduling_dpm_cogvideox, "randn_tensor", lambda *_, n=noise, **__: n)
        back = times[i - 1] if i else None
        x, old = reference.step(torch.tensor(velocity), old, times[i], back, x)
        states.append(x)
        cleans.append(old)
    ours = trajectory(schedule, latents, velocities, normals)
    assert_close(ours[0], states)
    assert_close(ours[1], cleans)


@pytest.mark.parametrize("steps", range(1, 1000, 60))
def test_there_are_as_many_steps_as_asked_for(steps):
    """At 61, and some others, the original rounds itself one more, at timestep -1."""
    schedule = Schedule(solver="ddim", snr_shift=1.0, steps=steps)
    assert len(schedule.timesteps) == steps and schedule.timesteps.min() >= 0


def test_the_first_state_is_pure_noise_and_the_last_is_clean():
    for shift in (1.0, 3.0):
        schedule = Schedule(solver="ddim", snr_shift=shift)
        assert schedule.levels[0] == 0 and schedule.levels[-1] == 1
        assert (np.diff(schedule.levels) > 0).all() and len(schedule.levels) == 51


@pytest.mark.parametrize("solver", ["ddim", "dpm"])
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_any_share_of_noise_keeps_the_levels(solver, eta):
    """With the exact clean estimate z = 0, a state of variance 1 - a becomes one of 1 - a'."""
    schedule = Schedule(solver=solver, snr_shift=1.0, eta=eta, steps=20)
    a = schedule.coefficients
    level, after = schedule.levels[:-1], schedule.levels[1:]
    np.testing.assert_allclose(a.latents**2 * (1 - level) + a.noise**2, 1 - after, atol=1e-12)
    mean = a.latents * np.sqrt(level) + a.clean + a.previous  # of z = 1
    np.testing.assert_allclose(mean, np.sqrt(after), atol=1e-12)
    assert (a.noise[:-1] > 0).all() == bool(eta)


def test_dynamic_guidance_is_that_of_the_pipeline():
    schedule = Schedule(solver="dpm", snr_shift=1.0)
    scales = schedule.guidance(6.0, dynamic=True)
    for scale, time in zip(scales, schedule.timesteps, strict=True):
        wanted = 1 + 6.0 * ((1 - math.cos(math.pi * ((50 - int(time)) / 50) ** 5.0)) / 2)
        assert scale == pytest.approx(wanted, abs=1e-9)
    np.testing.assert_array_equal(schedule.guidance(6.0, dynamic=False), np.full(50, 6.0))


@pytest.mark.parametrize(
    "changes",
    [
        dict(timestep_spacing="leading"),
        dict(prediction_type="epsilon"),
        dict(rescale_betas_zero_snr=False),
        dict(set_alpha_to_one=False),
    ],
    ids=str,
)
def test_settings_that_no_checkpoint_has_are_refused(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        make(CogVideoXDDIMScheduler, 5, **changes)


@pytest.mark.parametrize("changes", [dict(solver="euler"), dict(steps=0), dict(eta=1.5)], ids=str)
def test_impossible_schedules_are_refused(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        Schedule(**dict(solver="ddim", snr_shift=1.0) | changes)
