"""Units made in one piece, stage by stage, or some steps at a time."""

import dataclasses
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tts_jax.generators.protocol import Generator
from tts_jax.generators.pyramid_flow import draws
from tts_jax.generators.pyramid_flow import sampler as sampling
from tts_jax.generators.pyramid_flow.draws import Draws
from tts_jax.generators.pyramid_flow.generator import PyramidFlow
from tts_jax.generators.pyramid_flow.sampler import Condition, State
from tts_jax.generators.pyramid_flow.sampler_config import SamplerConfig
from tts_jax.search.flops import count_flops
from tts_jax.solvers import noise
from tts_jax.solvers.flow_matching import upsample

PROMPT = "a red circle moving right"
SEGMENTS = ("unit", "stage", "step")
CONDITION = Condition(
    jnp.ones((2, 1, 1)), jnp.ones((2, 1)), jnp.ones((2, 1)), jnp.asarray([4.0, 3.0])
)


def toy_denoiser(latents, times, history, text, mask, pooled, timestep):
    """Looks at all it is given, and is quick to compile."""
    past = sum(
        jnp.where(clip.valid, clip.latents.mean((2, 3, 4)), 0).sum(1) for clip in history
    ) + jnp.zeros(len(latents))
    shift = past + jnp.sin(timestep / 100) + jnp.arange(len(latents)) + times[0] / 10
    return 0.3 * jnp.tanh(latents + shift[:, None, None, None, None]) - 0.5 * latents


class ToyFlow(PyramidFlow):
    """A Pyramid-Flow of which only the denoiser is a toy; counts its calls."""

    def __init__(self, generator):
        super().__init__(generator.config, generator.tokenizer)
        self.calls = None

    def _model(self, params):
        if self.calls is None:
            return toy_denoiser

        def model(latents, *rest):
            jax.debug.callback(lambda b: self.calls.append(int(b)), jnp.int32(len(latents)))
            return toy_denoiser(latents, *rest)

        return model

    def draft(self):
        draft = super().draft()
        return draft and ToyFlow(draft)

    def counted(self):
        """Denoiser calls since the last time; begins to count at the first."""
        jax.effects_barrier()
        total, self.calls = sum(self.calls or ()), []
        return total


@pytest.fixture(scope="module")
def toy(make_generator):
    defaults = dict(
        stages=2,
        stage_range=(0.0, 0.5, 1.0),
        steps_first=(3, 5),
        steps=(3, 4),
        steps_per_segment=2,
        frames=5,
        frames_per_unit=2,
    )
    return lambda segment="step", **fields: ToyFlow(
        make_generator(segment=segment, **{**defaults, **fields})
    )


def grow(generator, key, segments, branch=None, condition=CONDITION, seed=None):
    """A branch after these segments, and all branches on the way, by compiled programs."""
    branch = generator.init(None, condition, key) if branch is None else branch
    programs = {}
    on_the_way = []
    for segment in segments:
        program = generator.program(segment)
        alike = [s for s in range(generator.num_segments) if generator.program(s) == program]
        static = segment if segment == 0 or alike == [segment] else None
        if (program, static) not in programs:

            def advance(branch, key, s, static=static, program=program):
                s = s if static is None else static
                return generator.advance(None, condition, branch, key, s, program)

            programs[program, static] = jax.jit(advance)
        child = noise.fold_in(key, segment if seed is None else (seed, segment)[segment == 0])
        branch = programs[program, static](branch, child, np.int32(segment))
        on_the_way.append(branch)
    assert all(p._cache_size() == 1 for p in programs.values())
    return on_the_way


def same(found, wanted, atol=2e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=atol), found, wanted)


@pytest.mark.parametrize(("segment", "eta"), [("unit", 0.0), ("stage", 0.7), ("step", 0.0)])
def test_a_video_takes_as_many_denoiser_calls_however_it_is_cut(toy, segment, eta):
    generator = toy(segment, eta=eta)
    generator.counted()
    (*_, branch) = grow(generator, jax.random.key(0), range(generator.num_segments))
    planned = [generator.nfe(s) for s in range(generator.num_segments)]
    assert generator.counted() == sum(planned) == 2 * (8 + 2 * 7)
    assert isinstance(generator, Generator)
    assert np.isfinite(branch.latents).all()
    assert (np.asarray(branch.latents) != 0).all()


def test_segments_add_up_to_units_and_share_few_programs(toy, make_generator):
    generator = toy("unit")
    assert generator.units == (1, 1, 1)
    generator = toy("stage")
    assert generator.units == (2, 2, 2)
    assert len({generator.program(s) for s in range(6)}) == 4
    generator = toy("step")
    assert generator.units == (2 + 3, 2 + 2, 2 + 2)
    later = [generator.program(s) for s in range(5, 13)]
    assert later[:4] == later[4:] and len(set(later)) == 4
    assert [generator.nfe(s) for s in range(13)] == [2, 4, 2, 4, 4] + 2 * [2, 4, 4, 4]
    long = make_generator(
        segment="step", steps_first=(20,) * 3, steps=(20,) * 3, steps_per_segment=2, frames=16
    )
    assert long.num_segments == 16 * 30
    # A first, a middle and, of the last stage, a last kind of block; for first and later units.
    assert len({long.program(s) for s in range(long.num_segments)}) == 2 * 7


def test_programs_that_pad_the_history_less_make_the_same_video(toy):
    def padded(generator):
        return [generator.config.sampler.history_of(unit) for unit in range(5)]

    one, two, many = (toy("unit", frames=9, history_programs=count) for count in (1, 2, 9))
    assert padded(one) == [0, 7, 7, 7, 7]
    assert padded(two) == [0, 3, 3, 7, 7]
    assert padded(many) == [0, 1, 3, 5, 7]
    assert len({two.program(s) for s in range(5)}) == 3
    videos = [grow(generator, jax.random.key(0), range(5))[-1] for generator in (one, two)]
    same(*videos)


def recorded_noises(config, key, unit):
    frames, first = config.unit_frames(unit == 0), unit == 0
    key = jax.random.fold_in(key, unit)
    return (
        draws.draw_noise(key, config, frames),
        draws.draw_block_noises(key, config, frames),
        draws.draw_unit_steps(key, config, frames, first),
    )


@pytest.mark.parametrize(("eta", "unit"), [(0.0, 2), (0.7, 0), (0.7, 1)])
def test_equal_noise_gives_an_equal_video_however_it_is_cut(toy, eta, unit):
    configs = {name: toy(name, eta=eta).config.sampler for name in SEGMENTS}
    video = jax.random.normal(jax.random.key(1), (5, 8, 8, 4))
    first = unit == 0
    initial, jumps, steps = recorded_noises(configs["unit"], jax.random.key(2), unit)
    wanted = sampling.sample_unit(
        toy_denoiser, configs["unit"], video, unit, CONDITION, initial, jumps, first, steps
    )
    for name in ("stage", "step"):
        config, state, starts = configs[name], None, [0, 0]
        for block in config.blocks(first):
            stage, start = block.stage, starts[block.stage]
            before, at = (stage - 1, -1) if block.enters else (stage, start - 1)
            draws = Draws(
                initial,
                jumps[stage - 1] if block.enters and stage else None,
                steps[before][at] if eta and (stage or start) else None,
                steps[stage][start : start + block.steps] if eta else None,
            )
            end, state = sampling.sample_block(
                toy_denoiser, config, block, video, unit, start, CONDITION, state, draws
            )
            starts[stage] += block.steps
            if starts[stage] == config.stage_steps(stage, first):
                same(end, wanted[stage])
        assert block.ends


@pytest.fixture(scope="module")
def grown(toy):
    """A noisy solver's video and its branches after each of its segments."""
    generator = toy("step", eta=0.5)
    return generator, grow(generator, jax.random.key(3), range(generator.num_segments))


def test_a_traced_segment_is_what_it_is_by_its_number(grown):
    generator, branches = grown
    key = jax.random.key(3)
    for s in range(generator.num_segments - generator.units[-1], generator.num_segments):
        args = branches[s - 1], jax.random.fold_in(key, s)
        found = jax.jit(generator.advance, static_argnums=4)(None, CONDITION, *args, s)
        same(found, branches[s])
    with pytest.raises(ValueError, match="programs"):
        jax.jit(generator.advance)(None, CONDITION, *args, np.int32(s))


def test_a_branch_shows_finished_units_and_the_clean_estimate_of_the_next(grown):
    generator, branches = grown
    config = generator.config.sampler
    ends = np.cumsum(generator.units) - 1

    def estimate(segment, look):
        return generator.estimate(None, CONDITION, branches[segment], segment, look)

    for segment, branch in enumerate(branches):
        unit = int(np.searchsorted(ends, segment))
        clean = estimate(segment, "clean")
        assert clean.shape == (1 + 2 * unit, 8, 8, 4)
        if segment in ends:
            np.testing.assert_array_equal(clean, estimate(segment, "committed"))
            assert not np.asarray(branch.state).any()
            continue
        done = clean[: config.unit_start(unit)]
        np.testing.assert_array_equal(done, branch.latents[: len(done)])
        assert (np.asarray(branch.latents)[len(done) :] == 0).all()
        if unit:
            np.testing.assert_array_equal(done, estimate(segment, "committed"))
        else:
            with pytest.raises(ValueError, match="no unit"):
                estimate(segment, "committed")
        stage = generator.program(segment).block.stage
        if stage == 0:
            made = clean[len(done) :]
            np.testing.assert_array_equal(made, upsample(made[:, ::2, ::2]))


def test_the_clean_estimate_of_the_last_call_is_the_unit(toy):
    config = toy("stage").config.sampler
    key, video = jax.random.key(0), jax.random.normal(jax.random.key(1), (5, 8, 8, 4))
    state = State(*jax.random.normal(key, (2, 2, 4, 4, 4)))
    block = config.blocks(False)[-1]
    jump = draws.draw_jump(key, config, 2, 1)
    unit, last = sampling.sample_block(
        toy_denoiser, config, block, video, 1, 0, CONDITION, state, Draws(jump=jump)
    )
    same(sampling.clean_unit(config, 1, last, sampling.last_ratio(config, block, 0)), unit)


def test_looking_ahead_goes_on_by_the_ode_to_the_end_of_the_stage(toy):
    generator = toy("step", steps_per_segment=1)
    config = generator.config.sampler
    assert generator.looks_ahead and not toy("stage").looks_ahead
    branches = grow(generator, jax.random.key(0), range(8))
    generator.counted()
    for segment, far in ((0, 2), (3, 4), (2, 0)):
        for look in (1, 10):
            found = generator.estimate(None, CONDITION, branches[segment], segment, look)
            calls = generator.estimate_nfe(segment, look)
            assert calls == 2 * min(look, far) == generator.counted()
        # Without noise, looking to the end of the stage is what happens there.
        end = segment + far
        wanted = generator.estimate(None, CONDITION, branches[end], end, "clean")
        same(found, wanted, atol=1e-4)
    # One step of two that remain, by hand.
    stage, (timesteps, ratios) = 0, config.timeline(0, True)
    state = generator._state(branches[0], stage, True)
    middle = (ratios[0] + ratios[2]) / 2
    x = state.latents + (ratios[2] - ratios[0]) * state.velocity
    denoiser = sampling.stage_denoiser(
        toy_denoiser, config, branches[0].latents, 0, CONDITION, stage, True
    )
    velocity = denoiser(x, jnp.float32(timesteps[2]))
    assert middle == pytest.approx(ratios[1])
    wanted = sampling.clean_unit(config, stage, State(x, velocity), float(ratios[2]))
    same(generator.estimate(None, CONDITION, branches[0], 0, 1), wanted)
    assert generator.estimate_nfe(7, 5) == generator.estimate_nfe(3, "clean") == 0


@pytest.mark.parametrize(
    ("fields", "stochastic"),
    [
        (dict(segment="unit", eta=1.0), False),
        (dict(segment="stage"), True),
        (dict(segment="step"), False),
        (dict(segment="step", eta=0.5), True),
        (dict(segment="step", steps_per_segment=9), True),
    ],
)
def test_forks_differ_where_the_generator_says_so(toy, fields, stochastic):
    generator = toy(**fields)
    assert generator.stochastic == stochastic
    begin = generator.units[0]
    branches, forks = grow(generator, jax.random.key(0), range(begin)), []
    for segment in range(1, begin):
        advance = jax.vmap(generator.advance, (None, None, None, 0, None))
        keys = jax.random.split(jax.random.key(1), 2)
        children = advance(None, CONDITION, branches[segment - 1], keys, segment)
        made = children.latents if generator.program(segment).block.ends else children.state
        forks.append(bool((made[0] != made[1]).any()))
    assert (bool(forks) and all(forks)) == stochastic


@pytest.mark.parametrize("segment", ["unit", "step"])
def test_a_chain_without_links_draws_what_its_key_does(toy, segment):
    generator = toy(segment, eta=0.5)
    key = jax.random.key(4)
    segments = range(1 if segment == "unit" else 3)
    plain = grow(generator, key, segments)
    short, long = (grow(generator, noise.chain(key, size), segments) for size in (2, 4))
    jax.tree.map(np.testing.assert_array_equal, short, long)
    same(plain, long)
    moved = noise.link(noise.chain(key, 3), 0xFFFFFFFE, jnp.uint32(0), jnp.float32(0.99))
    (near,) = grow(generator, moved, [0])
    here = plain[0]
    (far,) = grow(generator, jax.random.key(5), [0])
    values = [np.asarray(b.latents if segment == "unit" else b.state) for b in (here, near, far)]
    distances = [np.linalg.norm(values[0] - value) for value in values[1:]]
    assert 0 < distances[0] < distances[1] / 2


@pytest.fixture(scope="module")
def real(make_generator, randomise):
    generator = make_generator(
        segment="step", steps=(1, 1, 2), steps_per_segment=1, eta=0.5, frames=2
    )
    params = randomise(generator.init_params(), 0)
    return generator, params, jax.tree.map(lambda x: x[0], generator.encode(params, [PROMPT]))


def test_siblings_share_the_work_on_their_history_in_every_block(real):
    generator, params, condition = real
    branch = generator.init(params, condition, jax.random.key(0))
    for segment in range(generator.units[0], generator.num_segments):
        family = jax.vmap(generator.advance, (None, None, None, 0, None))

        def cost(children, segment=segment, family=family):
            return count_flops(
                lambda p, c, b, k: family(p, c, b, k, segment),
                params,
                condition,
                branch,
                jax.random.split(jax.random.key(0), children),
            )

        one, two, nine = cost(1), cost(2), cost(9)
        assert nine - one == 8 * (two - one)
        assert 2 * one - two > 0.3 * one


def test_the_real_denoiser_makes_a_video_in_steps(real):
    generator, params, condition = real
    branch = generator.init(params, condition, jax.random.key(0))
    for segment in range(3):
        branch = generator.advance(params, condition, branch, jax.random.key(segment), segment)
    found = generator.estimate(params, condition, branch, 2, "clean")
    assert found.shape == (1, 8, 8, 4) and np.isfinite(found).all() and np.ptp(found) > 0


def test_noise_is_added_again_with_the_variance_of_its_place(toy):
    config = dict(height=64, width=64, frames=3)
    generator = toy("step", eta=0.5, steps_per_segment=1, **config)
    sampler, begin = generator.config.sampler, generator.units[0]
    clean = jnp.ones((3, 64, 64, 4))
    blank = generator.init(None, CONDITION, jax.random.key(0))
    whole = dataclasses.replace(blank, latents=clean)
    end = generator.num_segments
    for to in (begin + 2, begin + 4, end - 2):
        generator.counted()
        found = generator.renoise(None, CONDITION, whole, jax.random.key(to), end, to, 1.0)
        assert generator.counted() == generator.renoise_nfe(end, to) == 2
        stage, ratio = generator._level(to)
        state = generator._state(found, stage, False)
        sigma = sampler.schedule.noise_level(stage, ratio)
        np.testing.assert_allclose(state.latents.std(), sigma, rtol=0.06)
        np.testing.assert_allclose(state.latents.mean(), 1 - sigma, atol=0.06)
        np.testing.assert_array_equal(found.latents[0], clean[0])
        assert (np.asarray(found.latents[1:]) == 0).all()
        denoiser = sampling.stage_denoiser(
            toy_denoiser, sampler, found.latents, 1, CONDITION, stage, False
        )
        timesteps, ratios = sampler.timeline(stage, False)
        timestep = timesteps[np.argmin(abs(ratios - ratio))]
        same(state.velocity, denoiser(state.latents, jnp.float32(timestep)))
        same_level = generator.renoise(None, CONDITION, found, jax.random.key(0), to, to, 0.5)
        moved = generator._state(same_level, stage, False).latents - state.latents
        np.testing.assert_allclose(moved.std(), sigma / 2, rtol=0.06)
    restarted = generator.renoise(None, CONDITION, whole, jax.random.key(0), end, begin, 1.0)
    assert not np.asarray(restarted.state).any() and generator.renoise_nfe(end, begin) == 0
    assert not np.asarray(restarted.latents[1:]).any()


@pytest.mark.parametrize(
    ("segment", "depth", "to", "reason"),
    [
        ("unit", 1, 0, "whole units"),
        ("step", 3, 4, "not before"),
        ("step", 5, 5, "no unit is in progress"),
        ("step", 7, 4, "not in unit 1"),
        ("step", 9, 0, "not in unit 1"),
        ("stage", 0, 0, "no unit is in progress"),
    ],
)
def test_noise_is_not_added_where_there_is_no_such_place(toy, segment, depth, to, reason):
    generator = toy(segment)
    branch = generator.init(None, CONDITION, jax.random.key(0))
    with pytest.raises(ValueError, match=reason):
        generator.renoise(None, CONDITION, branch, jax.random.key(0), depth, to, 1.0)


@pytest.mark.parametrize(
    ("fields", "steps"),
    [
        (dict(segment="unit"), ((1, 1), (1, 1))),
        (dict(segment="stage", steps=(6, 10)), ((1, 1), (2, 3))),
        (dict(segment="stage", draft_steps=2), ((2, 2), (2, 2))),
        (dict(segment="step"), ((2, 3), (2, 2))),
        (dict(segment="step", steps=(6, 12), steps_per_segment=5), ((1, 1), (2, 4))),
    ],
)
def test_a_draft_has_the_same_segments_and_fewer_steps(toy, fields, steps):
    generator = toy(**fields)
    draft = generator.draft()
    assert draft.units == generator.units
    found = [
        tuple(draft.config.sampler.stage_steps(stage, first) for stage in range(2))
        for first in (True, False)
    ]
    assert tuple(found) == steps
    assert sum(draft.nfe(s) for s in range(draft.units[0])) == 2 * sum(steps[0])
    assert draft.draft() is None


def test_a_draft_makes_a_video(toy):
    draft = toy("step").draft()
    draft.counted()
    branch = grow(draft, jax.random.key(0), range(draft.units[0]))[-1]
    assert draft.counted() == 2 * 5
    assert np.isfinite(branch.latents).all() and branch.latents[0].any()


def test_a_generator_of_single_steps_has_no_draft(toy):
    assert toy("step", steps_per_segment=1).draft() is None


def test_siblings_of_a_shared_root_start_alike_and_part_at_the_jump(toy):
    generator = toy("stage", share_root_noise=True)
    begin = generator.units[0]
    parent = grow(generator, jax.random.key(0), range(begin))[-1]
    children = [
        grow(generator, jax.random.key(0), [begin, begin + 1], parent, seed=k) for k in (21, 22)
    ]
    np.testing.assert_array_equal(children[0][0].state, children[1][0].state)
    assert (children[0][1].latents[1:3] != children[1][1].latents[1:3]).any()
    np.testing.assert_array_equal(children[0][1].noise, parent.noise)


def test_segment_settings_that_cannot_work_are_refused(toy):
    for fields in (
        dict(segment="frame"),
        dict(eta=1.5),
        dict(eta=-0.1),
        dict(steps_per_segment=0),
        dict(draft_steps=-1),
    ):
        with pytest.raises(ValueError):
            toy(**{"segment": "step", **fields})


def test_video_t1_takes_sixty_steps_for_each_of_sixteen_units():
    config = SamplerConfig.video_t1()
    assert config.num_units == 16 and config.share_root_noise
    assert config.unit_steps(True) == config.unit_steps(False) == 60


def test_blocks_of_a_stage_differ_by_a_step_at_most(toy):
    base = toy("step").config.sampler
    for steps in range(1, 12):
        for size in range(1, 13):
            config = dataclasses.replace(base, steps=(steps,) * 2, steps_per_segment=size)
            blocks = config.blocks(False)
            for stage in range(2):
                sizes = [block.steps for block in blocks if block.stage == stage]
                assert sum(sizes) == steps and max(sizes) <= size
                assert max(sizes) - min(sizes) <= 1
            assert [b.ends for b in blocks] == [False] * (len(blocks) - 1) + [True]
            assert all(b.enters for a, b in pairwise(blocks) if a.stage != b.stage)
