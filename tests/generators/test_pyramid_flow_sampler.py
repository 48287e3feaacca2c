import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tts_jax.generators.pyramid_flow import training
from tts_jax.generators.pyramid_flow.draws import Draws, draw_block, draw_block_noises, draw_noise
from tts_jax.generators.pyramid_flow.history import gather_history, history_slots
from tts_jax.generators.pyramid_flow.sampler import (
    Condition,
    clean_unit,
    full_size,
    last_ratio,
    sample_block,
    sample_unit,
)
from tts_jax.generators.pyramid_flow.sampler_config import SamplerConfig
from tts_jax.solvers.flow_matching import pyramid, upsample

CHANNELS = 3


def make_config(**fields):
    defaults = dict(
        frames=7,
        height=16,
        width=8,
        channels=CHANNELS,
        frames_per_unit=2,
        steps_first=(2, 3, 1),
        steps=(1, 2, 3),
        guidance_first=4.0,
        guidance=3.0,
    )
    return SamplerConfig(**{**defaults, **fields})


def unpadded_history(latents, frames_per_unit, stage, stages):
    """Section by section from the newest, as the definition reads; a list of (level, frames)."""
    levels = pyramid(latents, stages)
    indices = list(range(latents.shape[0]))
    clips, level = [], stage
    taken = indices[-frames_per_unit:]
    clips.append((level, taken))
    rest = indices[: len(indices) - len(taken)]
    while rest:
        level = max(level - 1, 0)
        taken = rest if level == 0 else rest[-frames_per_unit:]
        clips.append((level, taken))
        rest = rest[: len(rest) - len(taken)]
    return [(levels[level][jnp.asarray(taken)], taken) for level, taken in reversed(clips)]


@pytest.mark.parametrize("frames_per_unit", [1, 2, 3])
@pytest.mark.parametrize("stages", [1, 2, 3])
def test_the_padded_history_holds_exactly_the_unpadded_one(frames_per_unit, stages):
    config = make_config(
        frames_per_unit=frames_per_unit,
        stages=stages,
        stage_range=tuple(np.linspace(0, 1, stages + 1)),
        steps=(1,) * stages,
        steps_first=(1,) * stages,
    )
    latents = jax.random.normal(jax.random.key(0), (7, 16, 8, CHANNELS))
    for stage in range(stages):
        gather = jax.jit(lambda z, unit, s=stage: gather_history(config, z[None], unit, s))
        shapes = set()
        for unit in range(1, config.num_units):
            known = config.unit_start(unit)
            clips = gather(latents.at[known:].set(jnp.nan), unit)
            shapes.add(tuple(clip.latents.shape for clip in clips))
            clips = [clip for clip in clips if clip.valid.any()]
            wanted = unpadded_history(latents[:known], frames_per_unit, stage, stages)
            assert len(clips) == len(wanted)
            for clip, (values, times) in zip(clips, wanted, strict=True):
                valid = np.asarray(clip.valid)
                assert np.asarray(clip.times)[valid].tolist() == times
                found = np.asarray(clip.latents)[0, valid]
                np.testing.assert_allclose(found, values, atol=1e-6)
                assert np.isfinite(clip.latents).all()
        assert len(shapes) == 1


def test_the_largest_history_has_no_more_frames_than_a_video():
    config = make_config(frames=9)
    for stage in range(config.stages):
        slots = history_slots(config, stage)
        assert sum(slot.frames for slot in slots) == config.unit_start(config.num_units - 1)


def oracle_denoiser(config, video):
    """A denoiser that knows the only video there is, so that its velocity is exact."""
    schedule = config.schedule

    def model(latents, times, history, text, mask, pooled, timestep):
        clean = pyramid(video[times], config.stages)
        stage = [level.shape for level in clean].index(latents.shape[1:])
        table = schedule.timesteps_per_stage[stage]
        ratio = jnp.interp(
            timestep, table[::-1].astype(np.float32), schedule.sigmas_per_stage[stage][::-1]
        )[:, None, None, None, None]
        start, end = schedule.start_sigmas[stage], schedule.end_sigmas[stage]
        before = upsample(clean[stage - 1]) if stage else jnp.zeros_like(clean[0])
        data = ratio * (1 - start) * before + (1 - ratio) * (1 - end) * clean[stage]
        noise = (latents - data) / schedule.noise_level(stage, ratio)
        return (start - end) * noise + (1 - start) * before - (1 - end) * clean[stage]

    return model


def test_a_perfect_denoiser_is_sampled_to_its_video():
    config = make_config(steps_first=(3, 3, 3), steps=(3, 3, 3))
    video = jax.random.normal(jax.random.key(1), (7, 16, 8, CHANNELS))
    model = oracle_denoiser(config, video)
    condition = Condition(*(jnp.zeros((2, 1)),) * 3, jnp.asarray([4.0, 3.0]))
    for unit in range(config.num_units):
        first = unit == 0
        frames = config.unit_frames(first)
        key = jax.random.fold_in(jax.random.key(2), unit)
        *_, found = sample_unit(
            model,
            config,
            video,
            unit,
            condition,
            draw_noise(key, config, frames),
            draw_block_noises(key, config, frames),
            first,
        )
        start = config.unit_start(unit)
        np.testing.assert_allclose(found, video[start : start + frames], atol=2e-3)


@pytest.mark.parametrize("eta", [0.0, 0.8])
@pytest.mark.parametrize("unit", [0, 2])
def test_clean_estimates_of_a_perfect_denoiser_are_its_video(unit, eta):
    config = make_config(steps_first=(2, 4, 2), steps=(3, 2, 3), segment="stage", eta=eta)
    video = jax.random.normal(jax.random.key(1), (7, 16, 8, CHANNELS))
    model = oracle_denoiser(config, video)
    condition = Condition(*(jnp.zeros((2, 1)),) * 3, jnp.asarray([4.0, 3.0]))
    first, begin = unit == 0, config.unit_start(unit)
    frames = config.unit_frames(first)
    levels = pyramid(video[begin : begin + frames], config.stages)
    state = None
    for block in config.blocks(first):
        key = jax.random.fold_in(jax.random.key(2), block.stage)
        draws = draw_block(key, config, block)
        if not block.stage:
            draws = draws._replace(initial=draw_noise(key, config, frames))
        assert isinstance(draws, Draws) and (draws.steps is None) == (eta == 0)
        end, state = sample_block(model, config, block, video, unit, 0, condition, state, draws)
        found = clean_unit(config, block.stage, state, last_ratio(config, block, 0))
        wanted = full_size(config, block.stage, levels[block.stage])
        np.testing.assert_allclose(found, wanted, atol=5e-3)
    np.testing.assert_allclose(end, wanted, atol=5e-3)


@pytest.mark.parametrize("stage", [0, 1, 2])
@pytest.mark.parametrize("first", [True, False])
def test_training_targets_are_what_a_perfect_denoiser_predicts(stage, first):
    config = make_config()
    video = jax.random.normal(jax.random.key(1), (7, 16, 8, CHANNELS))
    batch = jnp.broadcast_to(video, (5, *video.shape))
    unit = 0 if first else 2
    pair = training.training_pair(jax.random.key(3), config, batch, stage, unit, first)
    times = training.unit_times(config, unit, first)
    model = oracle_denoiser(config, video)
    found = model(pair.noisy, times, (), None, None, None, pair.timestep)
    # The noise is recovered by a division by its level, which may be as low as 0.001.
    np.testing.assert_allclose(found, pair.velocity, atol=1e-3, rtol=1e-3)
    table = config.schedule.timesteps_per_stage[stage]
    assert (pair.timestep >= table[-1] - 1e-3).all() and (pair.timestep <= table[0]).all()
    assert len(np.unique(pair.timestep)) == 5


def test_training_history_is_corrupted_by_up_to_a_third():
    config = make_config()
    latents = jnp.full((400, 7, 16, 8, CHANNELS), 10.0)
    clips = training.training_history(jax.random.key(0), config, latents, 2, 3)
    kept = np.stack([np.asarray(clip.latents.mean((1, 2, 3, 4))) for clip in clips]) / 10
    strengths = 1 - kept
    assert strengths.min() > -0.02 and strengths.max() < 1 / 3 + 0.02
    np.testing.assert_allclose(strengths.mean(), 1 / 6, atol=0.02)
    np.testing.assert_allclose(strengths.std(), 1 / 3 / 12**0.5, atol=0.02)


def test_every_group_of_a_sub_batch_draws_its_own_unit():
    config = make_config(frames=9)
    seen = []

    def model(latents, times, history, text, mask, pooled, timestep):
        jax.debug.callback(lambda t: seen.append(int(t)), times[0])
        return jnp.zeros_like(latents)

    part = training.SubBatch(stage=1, first=False, size=24, groups=24)
    latents = jnp.zeros((24, 9, 16, 8, CHANNELS))
    texts = jnp.zeros((24, 1))
    for seed in range(3):
        training.sub_batch_loss(
            model, config, jax.random.key(seed), part, latents, texts, texts, texts
        )
    jax.effects_barrier()
    assert set(seen) == {config.unit_start(u) for u in range(1, config.num_units)}


def test_sampler_settings_that_cannot_work_are_refused():
    for fields in (
        dict(frames=6),
        dict(steps=(1, 2)),
        dict(steps_first=(0, 1, 1)),
        dict(height=12),
        dict(stage_range=(0.0, 1.0)),
    ):
        with pytest.raises(ValueError):
            _ = make_config(**fields).schedule


def test_published_samplers_make_the_published_sizes():
    for config, size in (
        (SamplerConfig.published_384p(), (121, 384, 640)),
        (SamplerConfig.published_768p(), (241, 768, 1280)),
    ):
        found = (1 + 8 * (config.frames - 1), 8 * config.height, 8 * config.width)
        assert found == size
