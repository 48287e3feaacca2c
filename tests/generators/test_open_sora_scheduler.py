"""Open-Sora's noise levels, and the frames that a clip can be given, against recorded ones."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from tts_jax.generators.open_sora.sampler import (
    Given,
    SamplerConfig,
    give_frames,
    nearest_start,
    parse_strategy,
)
from tts_jax.generators.open_sora.scheduler import Schedule


@pytest.fixture(scope="module")
def recorded(golden):
    return load_file(golden("open_sora_scheduler") / "io.safetensors")


@pytest.fixture(scope="module")
def fields(golden):
    return json.loads((golden("open_sora_scheduler") / "config.json").read_text())


@pytest.fixture(scope="module")
def texts(golden):
    return json.loads((golden("open_sora_scheduler") / "text_cases.json").read_text())


def test_timesteps_are_those_of_the_original(recorded):
    wanted = recorded["timesteps.float32"]
    for (height, width, frames), times in zip(recorded["timesteps.cases"], wanted, strict=True):
        schedule = Schedule(steps=len(times), frames=int(frames), height=height, width=width)
        np.testing.assert_allclose(schedule.timesteps, times, rtol=1e-6)
        assert schedule.levels[-1] == 0 and schedule.timesteps[0] == 1000


def test_no_size_starts_above_level_1():
    """Where rounding would lead there, in either direction."""
    for width in range(16, 400):
        schedule = Schedule(steps=2, height=16, width=width, frames=34)
        assert schedule.levels[0] == pytest.approx(1) and schedule.levels[0] <= 1
        assert np.isfinite(np.concatenate(schedule.coefficients)).all()
        assert not schedule.coefficients.noise.any()


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_any_share_of_noise_keeps_the_levels(eta):
    """With the exact clean estimate z, a state of z and noise s becomes one of z and noise s'."""
    schedule = Schedule(eta=eta, steps=20)
    a = schedule.coefficients
    level, after = schedule.levels[:-1], schedule.levels[1:]
    np.testing.assert_allclose((a.latents * level) ** 2 + a.noise**2, after**2, atol=1e-12)
    np.testing.assert_allclose(a.latents * (1 - level) + a.clean, 1 - after, atol=1e-12)
    assert (a.noise[:-1] > 0).all() == bool(eta)


def test_the_original_steps_are_those_of_the_ode():
    """z + v (t - t') / 1000, with v the difference of clean and noise."""
    schedule = Schedule(steps=7)
    clean, white = np.random.default_rng(0).normal(size=(2, 5))
    a = schedule.coefficients
    for i, (s, after) in enumerate(zip(schedule.levels, schedule.levels[1:], strict=False)):
        x = (1 - s) * clean + s * white
        wanted = x + (clean - white) * (s - after)
        np.testing.assert_allclose(a.latents[i] * x + a.clean[i] * clean, wanted, atol=1e-12)


def test_strategies_are_read_as_recorded(texts):
    for case in texts["parse_mask_strategy"]:
        assert [list(group) for group in parse_strategy(case["input"])] == case["output"]
    for case in texts["find_nearest_point"]:
        found = nearest_start(case["value"], case["point"], case["max_value"])
        assert found == case["output"], case


def test_frames_are_given_as_recorded(recorded, fields):
    case = fields["cond"]
    noise, wanted = (
        recorded[f"cond.in.{name}"].transpose(0, 2, 3, 4, 1) for name in ("z_before", "z")
    )
    for i, strategy in enumerate(case["mask_strategy"]):
        names = sorted(name for name in recorded if name.startswith(f"cond.in.ref.{i}."))
        references = [recorded[name].transpose(1, 2, 3, 0) for name in names]
        given = give_frames(
            parse_strategy(strategy),
            references,
            noise[i].shape,
            loop=case["loop"],
            align=case["align"],
        )
        np.testing.assert_array_equal(given.ratio, recorded["cond.in.frame_mask"][i])
        np.testing.assert_array_equal(given.place(noise[i], np.float32(1000)), wanted[i])
        for time, noisy in zip(
            recorded["cond.timesteps"][:, i], recorded["cond.x_mask"][:, i], strict=True
        ):
            np.testing.assert_array_equal(given.noisy(time), noisy)


def test_starts_are_moved_and_frames_cut_to_what_there_is():
    groups = parse_strategy("0,0,0,-1,5,0.5;1,0,0,0,1")
    reference = np.ones((3, 1, 1, 1))
    given = give_frames(groups, [reference], (15, 1, 1, 1), align=5)
    np.testing.assert_array_equal(given.ratio, [1] * 10 + [0.5] * 3 + [1] * 2)
    given = give_frames(groups, [reference], (15, 1, 1, 1))
    np.testing.assert_array_equal(given.ratio, [1] * 14 + [0.5])


def test_a_frame_to_be_edited_is_noised_once():
    """It is the given one until the level is at its ratio, then noise of that level is added."""
    given = Given(np.full((3, 1, 1, 1), 2.0), np.array([1.0, 0.0, 0.5], np.float32))
    stepped, normals = np.full((3, 1, 1, 1), 7.0), np.full((3, 1, 1, 1), -1.0)

    def after(before, time):
        found = given.after_step(stepped, before, time, time / 1000, normals)
        return [float(x) for x in found.ravel()]

    assert after(900.0, 600.0) == [7.0, 2.0, 2.0]
    assert after(600.0, 400.0) == pytest.approx([7.0, 2.0, 0.6 * 2 - 0.4])
    assert after(400.0, 200.0) == [7.0, 2.0, 7.0]


@pytest.mark.parametrize("text", ["0,0,0,0,1,0,9", "0,x", "0,0,0,0,1,1.5"])
def test_what_is_no_strategy_is_refused(text):
    with pytest.raises(ValueError, match="mask strategy"):
        parse_strategy(text)


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(steps=0), "0 steps"),
        (dict(eta=1.5), "eta is 1.5"),
        (dict(frames=16), "16 frames has no noise levels"),
        (dict(clips=0), "clips is 0"),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        SamplerConfig(**changes)
