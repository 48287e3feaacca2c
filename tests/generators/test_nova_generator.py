"""NOVA as a generator of searches: sharing, forks, replays, programs, images."""

import dataclasses
import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny_nova
from tests.published import random_params
from tts_jax.generators.from_image import FromImage
from tts_jax.generators.nova import sampler as nova
from tts_jax.generators.nova.generator import NOISE_TAG, Nova, NovaConfig
from tts_jax.generators.nova.sampler import Plan, SamplerConfig
from tts_jax.generators.protocol import Generator
from tts_jax.generators.pyramid_flow import vae as pyramid_flow
from tts_jax.generators.pyramid_flow.vae import LatentFactors
from tts_jax.parallel import branch_mesh
from tts_jax.search import Search, load_preset
from tts_jax.search.flops import count_flops
from tts_jax.verifiers.panel import Panel

PROMPT = "a b"


class Letters:
    """A tokenizer of single letters."""

    length = tiny_nova.TEXT_LENGTH

    def tokenize(self, prompts):
        rows = [[ord(c) % 29 + 2 for c in prompt[: self.length]] for prompt in prompts]
        mask = np.array([[i < len(row) for i in range(self.length)] for row in rows])
        padded = [row + [0] * (self.length - len(row)) for row in rows]
        return np.array(padded, np.int32), mask


class Brightness:
    """Scores every branch by its pixels."""

    name, needs = "brightness", "video"

    def prepare(self, params, prompts):
        return jnp.zeros((len(prompts), 1))

    def score(self, params, frames, query):
        return jnp.sin(50 * frames.mean((1, 2, 3, 4)))


def build(**sampler):
    return Nova(tiny_nova.config(**sampler), {"phi": Letters()})


@pytest.fixture(scope="module")
def params():
    return random_params(build())


SEARCHES = {
    "random_linear": dict(preset="random_linear", branches=2),
    "tree_of_frames": dict(
        preset="tree_of_frames", branching=(2, 2, 1), judge_depths=(1,), keep=(1,), rule="top_k"
    ),
    "beam": dict(preset="beam", beams=1, children=2, every=1, look_ahead=1),
}


def search(generator, params, preset):
    """A search on one device, a branch at a time so that bits depend on paths alone."""
    preset = preset if callable(preset) else load_preset(preset)
    models = Search(
        generator,
        params,
        Panel([Brightness()]),
        {"brightness": {}},
        mesh=branch_mesh(1),
        exact=True,
    )
    return models, models.run(PROMPT, preset)


@functools.cache
def compiled(generator, program=None):
    """Of segments of one program, or of the first one."""
    if program is None:
        return jax.jit(lambda *args: generator.advance(*args, 0))
    return jax.jit(lambda *args: generator.advance(*args, program))


def grow(generator, params, path):
    """The branch of one path."""
    condition = jax.tree.map(lambda x: x[0], generator.encode(params, [PROMPT]))
    key = jax.random.key(3)
    branch = jax.jit(generator.init)(params, condition, key)
    for segment, child in enumerate(path):
        key = jax.random.fold_in(key, child)
        if segment == 0:
            branch = compiled(generator)(params, condition, branch, key)
        else:
            advance = compiled(generator, generator.program(segment))
            branch = advance(params, condition, branch, key, jnp.int32(segment))
    return branch


def test_it_keeps_the_protocol():
    generator = build()
    assert isinstance(generator, Generator) and not generator.renoises
    for refused in (
        generator.renoise_nfe,
        lambda *depths: generator.renoise(*[None] * 4, *depths, 1),
    ):
        with pytest.raises(ValueError, match="noisy"):
            refused(2, 1)
    assert generator.units == (1, 1, 1) and generator.num_segments == 3
    parts = build(segments_per_frame=2)
    assert parts.units == (2, 2, 2) and parts.stochastic


@pytest.mark.parametrize("count", [1, 2, 4])
def test_segments_make_the_calls_of_a_frame(count):
    generator = build(segments_per_frame=count)
    steps = len(generator.config.plan.sizes)
    calls = [generator.nfe(segment) for segment in range(generator.num_segments)]
    assert sum(calls) == 3 * 2 * steps
    draft = build().draft()
    assert sum(map(draft.nfe, range(3))) < 3 * 2 * steps


@pytest.mark.parametrize("tokens, steps, rooms, parts", [(1440, 128, 4, 1), (24, 8, 3, 2)])
def test_groups_have_room_for_all_their_steps(tokens, steps, rooms, parts):
    sampler = SamplerConfig(steps=steps, rooms=rooms, segments_per_frame=parts)
    plan = Plan.of(sampler, tokens)
    groups = [group for part in range(parts) for group in plan.groups(part)]
    assert [g.begin for g in groups[1:]] == [g.end for g in groups[:-1]]
    assert groups[0].begin == 0 and groups[-1].end == len(plan.sizes)
    assert groups[-1].known is None and len(groups) <= rooms + parts + 1
    for group in groups:
        assert max(plan.sizes[group.begin : group.end]) <= group.most
        assert group.known is None or plan.starts[group.end] <= group.known <= tokens


def test_the_published_rooms_waste_little():
    plan = Plan.of(SamplerConfig(), 1440)
    room = sum((g.end - g.begin) * (g.known or 0) for g in plan.groups(0))
    assert room <= 1.17 * sum(plan.starts[1:-1])


def test_a_video_does_not_depend_on_rooms_or_segments_or_the_cache(params):
    wanted = grow(build(fork="tokens"), params, (1, 2, 3)).latents
    assert np.isfinite(wanted).all() and np.abs(wanted).min(0).max() > 0
    for sampler in ({"rooms": 5}, {"cache": False}):
        found = grow(build(fork="tokens", **sampler), params, (1, 2, 3)).latents
        np.testing.assert_allclose(found, wanted, atol=1e-4)


@pytest.mark.parametrize("fork", ["both", "order", "tokens"])
def test_siblings_differ_by_what_the_option_says(params, fork):
    generator = build(fork=fork)
    one, other = (grow(generator, params, (0, i)) for i in (0, 1))
    np.testing.assert_array_equal(one.latents[0], other.latents[0])
    assert np.abs(one.latents[1] - other.latents[1]).max() > 1e-2
    assert (one.order == other.order).all() == (fork == "tokens")
    np.testing.assert_array_equal(np.sort(one.order), np.arange(16))


@pytest.mark.parametrize("name", SEARCHES)
def test_searches_compile_few_programs_and_replay_their_winner(params, name):
    preset = SimpleNamespace(**SEARCHES[name])
    sizes = dict(random_linear=dict(frames=8), beam=dict(segments_per_frame=2))
    generator = build(**sizes.get(name, {}))
    models, result = search(generator, params, preset)
    programs = {generator.program(segment) for segment in range(generator.num_segments)}
    assert result.ledger["generator"].compilations == len(programs) <= 8
    judged = {len(node.path) for node in result.nodes if node.scores}
    assert result.ledger["decode"].compilations == len(judged)
    before = len(models.programs)
    again = models.run("c d", load_preset(preset), prompt_index=1)
    assert len(models.programs) == before
    assert np.abs(again.best.latents - result.best.latents).max() > 1e-3
    video = models.replay(PROMPT, result.best.path)
    np.testing.assert_array_equal(video.latents, result.best.latents)
    np.testing.assert_array_equal(video.frames, result.best.frames)
    assert result.best.frames.shape == (4 * generator.config.sampler.frames - 3, 32, 32, 3)


def test_a_tree_over_eight_frames_compiles_eight_programs_and_a_second_prompt_none(params):
    """A root, a first and a later frame, what to make of scores; per judge depth two."""
    generator = build(frames=8)
    preset = dict(branching=(2, 1, 1, 2, 2, 1, 1, 1), judge_depths=(3,), keep=(2,), rule="top_k")
    preset = load_preset(SimpleNamespace(preset="tree_of_frames", **preset))
    models, result = search(generator, params, preset)
    found = {name: result.ledger[name].compilations for name in result.ledger}
    assert {name: count for name, count in found.items() if count} == dict(
        search=2, generator=2, decode=2, brightness=2
    )
    assert len(models.programs) == 8
    again = models.run("c d", preset, prompt_index=1)
    assert len(models.programs) == 8 and again.ledger.total.compilations == 0


def family_flops(generator, params, children, segment):
    """Operations of children of one parent, together."""
    condition = jax.tree.map(lambda x: x[0], generator.encode(params, [PROMPT]))
    branch = generator.init(params, condition, jax.random.key(0))

    def family(params, condition, branch, keys):
        return jax.vmap(lambda key: generator.advance(params, condition, branch, key, segment))(
            jax.vmap(jax.random.wrap_key_data)(keys)
        )

    return count_flops(family, params, condition, branch, np.zeros((children, 2), np.uint32))


def test_siblings_share_the_video_encoder_and_the_first_features(params):
    generator = build()
    one, five = (family_flops(generator, params, n, 1) for n in (1, 5))
    shared = (5 * one - five) / 4
    model = generator._model(params)
    condition = jax.tree.map(lambda x: x[0], generator.encode(params, [PROMPT]))
    branch = generator.init(params, condition, jax.random.key(0))

    def temporal(branch):
        return generator._read(model, condition, branch, 1, False)

    def features(tokens):
        return model.image(
            tokens, model.blank[...][0], jnp.zeros((0, 8)), jnp.zeros(0, jnp.int32),
            jnp.zeros(0, bool),
        )  # fmt: skip

    alone = count_flops(temporal, branch) + count_flops(features, branch.first)
    assert shared == alone + count_flops(
        lambda: nova.embed_timesteps(model, generator.config.sampler)
    )
    assert five < 5 * one


def test_the_clean_estimate_completes_the_frame_in_progress(params):
    generator = build(segments_per_frame=2)
    branch = grow(generator, params, (0, 1, 2))
    condition = jax.tree.map(lambda x: x[0], generator.encode(params, [PROMPT]))
    clean = generator.estimate(params, condition, branch, 2, "clean")
    committed = generator.estimate(params, condition, branch, 2)
    assert clean.shape[0] == 2 and committed.shape[0] == 1
    np.testing.assert_array_equal(clean[0], committed[0])
    there = np.asarray(branch.latents[1]) != 0
    assert there.any() and not there.all()
    np.testing.assert_array_equal(clean[1][there], branch.latents[1][there])
    assert np.abs(clean[1][~there]).min() > 0
    with pytest.raises(ValueError, match="no frame"):
        generator.estimate(params, condition, branch, 0)


def test_an_image_is_made_of_one_frame(params):
    generator = build(frames=1)
    branch = grow(generator, params, (2,))
    assert branch.cache.keys.size == 0
    assert generator.decode(params, branch.latents).shape == (1, 32, 32, 3)


def test_a_video_goes_on_from_an_image(params):
    image = np.random.default_rng(0).random((32, 32, 3)).astype(np.float32)
    generator = FromImage(build(), image)
    assert generator.num_segments == 2 and generator.units == (1, 1)
    one, other = (grow(generator, params, (i, 0)) for i in (0, 1))
    condition = jax.tree.map(lambda x: x[0], generator.encode(params, [PROMPT]))
    mean, spread = np.split(np.asarray(condition.moments), 2, axis=-1)
    drawn = np.asarray(one.latents[0]) / generator.config.vae.scale
    assert (np.abs(drawn - mean) <= 6 * np.exp(spread / 2)).all()
    np.testing.assert_array_equal(one.latents[0], other.latents[0])
    assert np.abs(one.latents[1] - other.latents[1]).max() > 1e-2
    assert generator.estimate(params, condition, one, 1).shape[0] == 3
    for wrong, fault in ((image[:8], "frames are"), (image + 1, "8-bit")):
        with pytest.raises(ValueError, match=fault):
            FromImage(build(), wrong)
    with pytest.raises(ValueError, match="one latent frame"):
        FromImage(build(frames=1), image)


def test_a_config_survives_its_file():
    config = build().config
    assert NovaConfig.from_json(dataclasses.asdict(config)) == config
    assert NOISE_TAG > 2**31


def test_a_config_has_one_text_encoder_and_the_scale_of_its_latents():
    config = build().config
    causal = pyramid_flow.VAEConfig.published()
    transformer = dataclasses.replace(config.transformer, latent_channels=16)
    for changes, fault in (
        (dict(phi=None), "text encoder"),
        (dict(vae=causal, transformer=transformer), "latent_factors"),
    ):
        with pytest.raises(ValueError, match=fault):
            dataclasses.replace(config, **changes)
    factors = LatentFactors.flux()
    other = dataclasses.replace(config, vae=causal, transformer=transformer, latent_factors=factors)
    assert other.factors == factors and config.factors.scale == config.vae.scale
    assert NovaConfig.from_json(dataclasses.asdict(other)) == other


@pytest.mark.parametrize(
    "fields, fault",
    [
        (dict(fork="none"), "fork"),
        (dict(frames=0), "frames"),
        (dict(segments_per_frame=9), "segments per frame"),
        (dict(image_guidance=1.0, guidance=1.0), "image_guidance"),
    ],
)
def test_impossible_settings_are_refused(fields, fault):
    with pytest.raises(ValueError, match=fault):
        build(**fields)
