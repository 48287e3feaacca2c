"""Causal Wan as a generator: chunks are units, what they see of the past is their parent's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from tests.published import random_params
from tests.stand_ins import Brightness, Letters
from tts_jax.generators.causal_wan.generator import NOISE_TAG, Branch, CausalWan, CausalWanConfig
from tts_jax.generators.causal_wan.sampler import SamplerConfig, read_past
from tts_jax.generators.from_image import FromImage
from tts_jax.generators.protocol import Generator
from tts_jax.generators.wan.transformer import Past, TransformerConfig
from tts_jax.generators.wan.vae import VAEConfig
from tts_jax.language.t5 import T5Config
from tts_jax.parallel import branch_mesh
from tts_jax.search import Search, load_preset, plan
from tts_jax.search.flops import count_flops
from tts_jax.search.models import outline_of
from tts_jax.solvers import noise
from tts_jax.verifiers.panel import Panel

PROMPT = "a b"


def build(**sampler):
    settings = dict(frames=17, height=16, width=16, text_length=6, chunk=2, first_alone=True)
    return CausalWan(
        CausalWanConfig(
            t5=T5Config(
                vocabulary=32, width=12, heads=2, head_size=4, layers=1, mlp=16, bias_per_layer=True
            ),
            transformer=TransformerConfig(
                heads=2,
                head_size=12,
                layers=2,
                mlp=20,
                latent_channels=4,
                text_width=12,
                time_width=8,
            ),
            vae=VAEConfig(
                channels=(4, 4, 8),
                layers=1,
                temporal_down=(True, True),
                mean=(0.3, -0.2, 0.1, 0.0),
                std=(1.5, 0.5, 2.0, 1.0),
            ),
            sampler=SamplerConfig(**settings | dict(steps=(1000, 500)) | sampler),
        ),
        {"t5": Letters(6)},
    )


@pytest.fixture(scope="module")
def params():
    return random_params(build())


@pytest.fixture(scope="module")
def condition(params):
    encoded = build().encode(params, [PROMPT])
    return jax.tree.map(lambda x: x[0], encoded)


def grow(generator, params, condition, path):
    """The branches along a path."""
    key, found = jax.random.key(3), [generator.init(params, condition, None)]
    for segment, child in enumerate(path):
        key = jax.random.fold_in(key, child)
        advance = jax.jit(lambda *args, s=segment: generator.advance(*args, s))
        found.append(advance(params, condition, found[-1], key))
    return found


def test_chunks_are_units_and_may_be_cut_into_steps(params, condition):
    whole, steps = build(frames=9), build(frames=9, segment="step")
    assert isinstance(whole, Generator) and isinstance(steps, Generator)
    assert whole.units == (1, 1) and not whole.stochastic
    assert steps.units == (2, 2) and steps.stochastic
    assert [whole.nfe(s) for s in range(2)] == [2, 3]
    assert [steps.nfe(s) for s in range(4)] == [1, 1, 2, 2]
    branches = grow(steps, params, condition, (0, 0, 0, 0))
    shapes = [
        [steps.estimate(params, condition, branches[s + 1], s, look).shape[0] for s in range(1, 4)]
        for look in ("committed", "clean")
    ]
    assert shapes == [[1, 1, 3], [1, 3, 3]]
    with pytest.raises(ValueError, match="no chunk is finished after segment 0"):
        steps.estimate(params, condition, branches[1], 0)
    frames = steps.decode(params, steps.estimate(params, condition, branches[-1], 3))
    assert frames.shape == (9, 16, 16, 3) and 0 <= frames.min() and frames.max() <= 1


def test_a_chunk_depends_on_those_before_it_and_leaves_them(params, condition):
    generator = build()
    one, other = (grow(generator, params, condition, (i, 0)) for i in (0, 1))
    for branches in (one, other):
        np.testing.assert_array_equal(branches[2].latents[:1], branches[1].latents[:1])
        assert not branches[1].latents[1:].any() and branches[2].latents[1:3].any()
    key = jax.random.key(5)
    advance = jax.jit(lambda branch: generator.advance(params, condition, branch, key, 1))
    children = [advance(branches[1]).latents[1:3] for branches in (one, other)]
    assert np.abs(children[0] - children[1]).max() > 1e-3  # of the same draws


def test_siblings_are_what_they_are_alone(params, condition):
    generator = build()
    parent, keys = (
        grow(generator, params, condition, (0, 0))[-1],
        jax.random.split(jax.random.key(7), 3),
    )

    def advance(key):
        return generator.advance(params, condition, parent, key, 1).latents

    alone = np.stack([jax.jit(advance)(key) for key in keys])
    np.testing.assert_allclose(jax.jit(jax.vmap(advance))(keys), alone, atol=1e-5)
    assert np.abs(alone[0] - alone[1]).max() > 0.1


@pytest.mark.parametrize(
    "preset",
    [
        dict(preset="random_linear", branches=2),
        dict(
            preset="tree_of_frames", branching=(2, 2, 1), judge_depths=(1,), keep=(1,), rule="top_k"
        ),
    ],
    ids=lambda preset: preset["preset"],
)
def test_searches_run_and_their_winners_are_made_again(params, preset):
    generator = build(frames=17, steps=(1000,))
    search = Search(
        generator,
        params,
        Panel([Brightness()]),
        {"brightness": {}},
        mesh=branch_mesh(1),
        exact=True,
    )
    chosen = load_preset(ConfigDict(preset))
    planned, result = search.plan(PROMPT, chosen), search.run(PROMPT, chosen, seed=2)
    assert planned.nfe == result.ledger.total.nfe
    again = search.replay(PROMPT, result.best.path, seed=2)
    np.testing.assert_array_equal(again.frames, result.best.frames)


def test_a_video_that_starts_from_an_image_goes_on_from_its_latents(params):
    inner = build(frames=9)
    image = np.random.default_rng(0).random((16, 16, 3), np.float32)
    generator = FromImage(inner, image)
    assert generator.units == (1,) and generator.nfe(0) == 3 and generator.parent_nfe(0) == 1
    condition = jax.tree.map(lambda x: x[0], generator.encode(params, [PROMPT]))
    branch = generator.init(params, condition, jax.random.key(0))
    vae, mean = inner.config.vae, np.split(condition.moments, 2, axis=-1)[0]
    own = branch.latents[:1] * np.array(vae.std) + np.array(vae.mean)
    np.testing.assert_allclose(own, mean, atol=1e-5)
    assert condition.moments.shape == (1, 4, 4, 8) and not branch.latents[1:].any()
    advance = jax.jit(lambda *args: generator.advance(*args, 0))
    found = advance(params, condition, branch, jax.random.key(3)).latents
    np.testing.assert_array_equal(found[:1], branch.latents[:1])
    assert found[1:].all()
    with pytest.raises(ValueError, match="the first chunk has 3 latent frames, and an image is"):
        FromImage(build(first_alone=False, chunk=3, frames=21), image)


def test_a_video_longer_than_the_window_is_made_on_a_rolling_past(params, condition):
    """The same by a past to which chunks are added, and which rolls when it is full."""
    generator = build(frames=25, window=4, sink=1, steps=(1000,))
    config, key = generator.config, jax.random.key(4)
    rng = np.random.default_rng(1)
    latents = jnp.asarray(rng.normal(size=config.latent_shape), jnp.float32)
    found = jax.jit(
        lambda params: generator.advance(params, condition, Branch(latents), key, 3).latents[-2:]
    )(params)

    @jax.jit
    def rolled(params):
        model = generator.network(params, "transformer")
        tokens, time = latents[0, ..., 0].size // config.transformer.patch**2, jnp.zeros(1)
        past = Past.empty(config.transformer, 1, 2 * tokens)
        for first, last in ((0, 1), (1, 3), (3, 5)):
            read = model.chunk(latents[None, first:last], condition.text, time, past, first)
            past = past.append(read[1], tokens)
        keys = noise.fold_in(noise.fold_in(key, NOISE_TAG), 0)
        start = noise.normal(keys, (1, 2, *config.latent_shape[1:]))
        time = jnp.asarray(config.sampler.times)
        return start - model.chunk(start, condition.text, time, past, 5)[0]

    np.testing.assert_allclose(found, rolled(params)[0], atol=1e-5)
    whole = build(frames=25, steps=(1000,)).advance
    other = jax.jit(lambda params: whole(params, condition, Branch(latents), key, 3))(params)
    assert np.abs(other.latents[-2:] - found).max() > 1e-3


def test_the_past_is_read_once_for_all_children_of_a_survivor(params, condition):
    generator = build()
    branch = generator.init(params, condition, None)

    def flops(children, segment):
        keys = jax.random.split(jax.random.key(0), children)
        family = jax.vmap(lambda key: generator.advance(params, condition, branch, key, segment))
        return count_flops(family, keys)

    def read(place):
        model, chunks = generator.network(params, "transformer"), generator.config.chunks
        text, own = model.read(condition.text), chunks[: place + 1]
        if place:
            before = branch.latents[None, : sum(chunks[:place])]
            read_past(model, before, text, own, generator.config.sampler)

    rest = set()
    for segment in range(3):
        one, two, five = (flops(children, segment) for children in (1, 2, 5))
        assert five - two == 3 * (two - one)
        rest.add(one - (two - one) - count_flops(lambda place=segment: read(place)))
        assert generator.parent_nfe(segment) == (segment > 0)
    assert len(rest) == 1  # the embedded times of the steps


def test_the_ledger_counts_what_siblings_share_once(params):
    tree = dict(preset="tree_of_frames", branching=(3, 3, 3), judge_depths=(0, 1), keep=(1, 1))
    chosen = load_preset(ConfigDict(tree | dict(rule="top_k")))

    def plan_of(micro_batch):
        search = Search(
            build(),
            params,
            Panel([Brightness()]),
            {"brightness": {}},
            mesh=branch_mesh(1),
            exact=False,
            micro_batch=micro_batch,
        )
        return search.plan(PROMPT, chosen)

    together, alone = plan_of(0), plan_of(1)
    assert together.nfe == 3 * 3 * 2 + 2 and alone.nfe == 3 * 3 * 2 + 3 * 2
    assert together.flops < alone.flops
    assert together.nfe == plan(chosen, outline_of(build())).nfe  # told without a model


def test_what_a_video_cannot_be_is_refused():
    for sentence, settings in {
        "6 latent frames are not chunks of 2 after the first": dict(frames=21),
        "sides are multiples of 8": dict(width=20),
        "of which the denoiser can tell 1024 apart": dict(frames=4097),
    }.items():
        with pytest.raises(ValueError, match=sentence):
            build(**settings)
