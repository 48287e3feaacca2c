"""Latte as a generator: the whole published pipeline, cut into segments."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    LattePipeline,
    LatteTransformer3DModel,
)
from diffusers.schedulers import scheduling_ddim

from converters.core import convert
from converters.image_autoencoder import image_rules
from converters.latte import RULES
from converters.t5 import T5_RULES
from tests.published import PublishedLetters, make_t5, randomise
from tts_jax.generators.full_sequence import NOISE_TAG
from tts_jax.generators.latte.generator import Latte, LatteConfig, SamplerConfig
from tts_jax.generators.latte.scheduler import Schedule
from tts_jax.generators.latte.transformer import TransformerConfig
from tts_jax.generators.latte.vae import VAEConfig
from tts_jax.generators.protocol import Generator
from tts_jax.language.t5 import T5Config

PIPELINE_TOLERANCE = 1e-3
PROMPT = "A red B"
VIDEO = dict(frames=3, height=16, width=24, clean=False)
LETTERS = PublishedLetters(120, letters=30)  # tells capital ones apart
SCHEDULER = dict(beta_start=0.0001, beta_end=0.02, beta_schedule="linear", clip_sample=False)


@dataclasses.dataclass
class Original:
    """A tiny pipeline of the package, and a generator on the same weights."""

    models: dict
    params: dict
    parts: dict

    def generator(self, **sampler):
        config = SamplerConfig(**VIDEO | sampler)
        return Latte(LatteConfig(sampler=config, **self.parts), {"t5": LETTERS})

    @property
    def pipeline(self):
        t5, transformer, vae = (self.models[name] for name in ("t5", "transformer", "vae"))
        pipeline = LattePipeline(None, t5, vae, transformer, DDIMScheduler(**SCHEDULER))
        pipeline.tokenizer = LETTERS
        pipeline.set_progress_bar_config(disable=True)
        return pipeline


@pytest.fixture(scope="module")
def original():
    models = {
        "t5": make_t5(12),
        "transformer": LatteTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=8,
            in_channels=4,
            out_channels=8,
            num_layers=2,
            cross_attention_dim=16,
            attention_bias=True,
            sample_size=8,
            patch_size=2,
            activation_fn="gelu-approximate",
            norm_type="ada_norm_single",
            norm_elementwise_affine=False,
            norm_eps=1e-6,
            caption_channels=12,
            video_length=VIDEO["frames"],
        ),
        "vae": AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            block_out_channels=(4, 4, 8),
            norm_num_groups=2,
        ),
    }
    models = {name: randomise(model) for name, model in models.items()}
    parts = {
        "t5": T5Config.from_reference(models["t5"].config.to_dict()),
        "transformer": TransformerConfig.from_reference(models["transformer"].config),
        "vae": VAEConfig.from_reference(models["vae"].config),
    }
    found = Original(models, {}, parts)
    rules = {"t5": T5_RULES, "transformer": RULES, "vae": image_rules()}
    for part, like in found.generator().abstract_params.items():
        tensors = {name: x.numpy() for name, x in models[part].state_dict().items()}
        if part == "t5":  # the same tensor under a second name
            tensors.pop("encoder.embed_tokens.weight", None)
        found.params[part] = convert(tensors, like, rules[part])
    return found


def keys_of(generator, seed=0):
    """The keys of the path (0, 0, ...)."""
    keys = [jax.random.fold_in(jax.random.key(seed), 0)]
    while len(keys) < generator.num_segments:
        keys.append(jax.random.fold_in(keys[-1], 0))
    return keys


def condition_of(generator, params, prompt=PROMPT):
    return jax.tree.map(lambda x: x[0], generator.encode(params, [prompt]))


def grow(generator, keys, params, siblings=1):
    """The branch after the last segment; in segment 0, the first of some siblings."""
    condition = condition_of(generator, params)
    root = generator.init(params, condition, keys[0])
    first = jax.vmap(lambda k: generator.advance(params, condition, root, k, 0))
    later = jax.jit(lambda b, k, s: generator.advance(params, condition, b, k, s, "next"))
    family = jax.jit(first)(jnp.stack([keys[0], *jax.random.split(keys[0], siblings - 1)]))
    branch = jax.tree.map(lambda x: x[0], family)
    for segment, key in enumerate(keys[1:], start=1):
        branch = later(branch, key, jnp.int32(segment))
    return branch


def draws(generator, keys):
    """The initial noise and that of every step."""
    shape, sampler = generator.config.latent_shape, generator.config.sampler
    tagged = [jax.random.fold_in(key, NOISE_TAG) for key in keys]
    start = jax.random.normal(jax.random.fold_in(tagged[0], 0), shape)
    steps = [
        jax.random.normal(jax.random.fold_in(tagged[i // sampler.steps_per_segment], i + 2), shape)
        for i in range(sampler.steps)
    ]
    return [torch.tensor(np.asarray(x)).permute(3, 0, 1, 2)[None] for x in (start, *steps)]


@pytest.mark.parametrize(
    "settings, siblings",
    [
        (dict(steps=5, steps_per_segment=2, negative_prompt="C"), 1),
        (dict(steps=3, steps_per_segment=3, guidance=1.0, eta=0.7), 3),
    ],
    ids=["guided, alone", "with fresh noise, among others"],
)
def test_videos_are_those_of_the_published_pipeline(original, settings, siblings, monkeypatch):
    generator = original.generator(**settings)
    keys, sampler = keys_of(generator), generator.config.sampler
    start, *fresh = draws(generator, keys)
    drawn = iter(fresh)
    monkeypatch.setattr(scheduling_ddim, "randn_tensor", lambda *_, **__: next(drawn))
    with torch.no_grad():
        latents = original.pipeline(
            PROMPT,
            negative_prompt=sampler.negative_prompt,
            video_length=sampler.frames,
            height=sampler.height,
            width=sampler.width,
            num_inference_steps=sampler.steps,
            guidance_scale=sampler.guidance,
            eta=sampler.eta,
            latents=start,
            clean_caption=False,
            output_type="latent",
        ).frames
    assert (next(drawn, None) is None) == generator.stochastic
    wanted = latents[0].permute(1, 2, 3, 0).numpy()
    found = grow(generator, keys, original.params, siblings).latents
    assert np.abs(found - wanted).max() <= PIPELINE_TOLERANCE * np.abs(wanted).max()


def test_frames_are_those_of_the_published_pipeline(original):
    generator = original.generator()
    latents = jax.random.normal(jax.random.key(3), generator.config.latent_shape)
    run, frames = original.pipeline, VIDEO["frames"]
    with torch.no_grad():
        clip = torch.tensor(np.asarray(latents)).permute(3, 0, 1, 2)[None]
        wanted = run.decode_latents(clip, frames)
    wanted = run.video_processor.postprocess_video(wanted, output_type="np")[0]
    found = jax.jit(generator.decode)(original.params, latents)
    assert found.shape == (frames, VIDEO["height"], VIDEO["width"], 3)
    assert np.abs(found - wanted).max() <= PIPELINE_TOLERANCE


def test_prompts_are_cleaned_as_captions_were(original):
    generator = original.generator(clean=True)
    found = condition_of(generator, original.params, "A (red) B  @nobody")
    for got, wanted in zip(
        jax.tree.leaves(found),
        jax.tree.leaves(condition_of(generator, original.params, "a red b")),
        strict=True,
    ):
        np.testing.assert_array_equal(got, wanted)
    assert found.seen.sum() == len("a red b") + 1


def test_it_is_a_generator_of_one_unit(original):
    generator = original.generator(steps=7, steps_per_segment=3)
    assert isinstance(generator, Generator)
    assert generator.num_segments == 3 and generator.units == (3,)
    assert sum(generator.nfe(s) for s in range(3)) == 2 * 7
    assert not generator.stochastic and original.generator(eta=0.5).stochastic


@pytest.mark.parametrize("changes", [{}, {"steps_offset": 1, "set_alpha_to_one": False}], ids=str)
@pytest.mark.parametrize("steps", [4, 50, 300])
def test_timesteps_and_steps_are_those_of_the_package(steps, changes):
    reference = DDIMScheduler(**SCHEDULER | changes)
    reference.set_timesteps(steps)
    fields = dict(reference.config) | {"_class_name": "DDIMScheduler"}
    schedule = Schedule(steps=steps, eta=0.3, **Schedule.read_reference(fields))
    np.testing.assert_array_equal(schedule.timesteps, reference.timesteps)
    state, noise, fresh = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    tensors = [torch.tensor(x) for x in (state, noise, fresh)]
    for i, time in enumerate(reference.timesteps):
        step = reference.step(tensors[1], time, tensors[0], eta=0.3, variance_noise=tensors[2])
        row = [column[i] for column in schedule.coefficients]
        level = schedule.levels[i]
        clean = (state - np.sqrt(1 - level) * noise) / np.sqrt(level)
        found = row[0] * state + row[1] * clean + row[3] * fresh
        np.testing.assert_allclose(found, step.prev_sample, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "change",
    [
        dict(prediction_type="v_prediction"),
        dict(timestep_spacing="trailing"),
        dict(clip_sample=True),
        dict(beta_schedule="scaled_linear"),
    ],
    ids=str,
)
def test_schedulers_that_the_checkpoint_has_not_are_refused(change):
    fields = dict(DDIMScheduler(**SCHEDULER).config) | {"_class_name": "DDIMScheduler"} | change
    with pytest.raises(ValueError, match=next(iter(change))):
        Schedule.read_reference(fields)


@pytest.mark.parametrize(
    "sampler, message",
    [
        (dict(frames=2), "2 frames: the denoiser makes 3, or 1"),
        (dict(width=12), "sides are multiples of 8"),
        (dict(steps=0), "from 1 to 1000"),
        (dict(eta=2.0), "eta is 2.0"),
        (dict(steps=1000, offset=1), "1000 steps from timestep 1000 on"),
    ],
    ids=str,
)
def test_videos_that_cannot_be_are_refused(original, sampler, message):
    with pytest.raises(ValueError, match=message):
        original.generator(**sampler)
