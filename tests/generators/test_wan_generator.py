"""Wan as a generator: the whole published pipeline, cut into segments."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from diffusers import (
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)

from converters.core import convert
from converters.t5 import UMT5_RULES
from converters.wan import VAE_RULES
from converters.wan_transformer import RULES
from tests.published import PublishedLetters
from tts_jax.generators.full_sequence import NOISE_TAG
from tts_jax.generators.protocol import Generator
from tts_jax.generators.wan.generator import SamplerConfig, Wan, WanConfig
from tts_jax.generators.wan.parts import clean_prompt
from tts_jax.generators.wan.transformer import TransformerConfig
from tts_jax.generators.wan.vae import VAEConfig
from tts_jax.language.t5 import T5Config

PIPELINE_TOLERANCE = 1e-3
PROMPT = "a b"
VIDEO = dict(frames=5, height=16, width=32, text_length=6)
LETTERS = PublishedLetters(VIDEO["text_length"])


def randomise(model):
    """Draws every parameter, those of norms around 1 and biases around 0."""
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            norm = "norm" in name and name.endswith(("weight", "gamma"))
            fan = 25 if tensor.numel() == len(tensor) else tensor[0].numel()
            tensor.copy_(float(norm) + torch.randn(tensor.shape) * fan**-0.5)
    return model.eval()


@dataclasses.dataclass
class Original:
    """A tiny pipeline of the package, and a generator on the same weights."""

    models: dict
    params: dict
    parts: dict

    def generator(self, **sampler):
        config = SamplerConfig(**VIDEO | sampler)
        return Wan(WanConfig(sampler=config, **self.parts), {"t5": LETTERS})

    def pipeline(self, sampler):
        scheduler = FlowMatchEulerDiscreteScheduler(shift=sampler.shift)
        if sampler.solver == "unipc":
            scheduler = UniPCMultistepScheduler(
                prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=sampler.shift
            )
        t5, transformer, vae = (self.models[name] for name in ("t5", "transformer", "vae"))
        pipeline = WanPipeline(None, t5, vae, scheduler, transformer)
        pipeline.tokenizer = LETTERS
        pipeline.set_progress_bar_config(disable=True)
        return pipeline


@pytest.fixture(scope="module")
def original():
    torch.manual_seed(0)
    sizes = dict(vocab_size=32, d_model=12, d_kv=4, num_heads=2, num_layers=1, d_ff=16)
    models = {
        "t5": transformers.UMT5EncoderModel(transformers.UMT5Config(**sizes)),
        "transformer": WanTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=4,
            out_channels=4,
            text_dim=12,
            freq_dim=8,
            ffn_dim=20,
            num_layers=2,
        ),
        "vae": AutoencoderKLWan(
            base_dim=4,
            z_dim=4,
            dim_mult=[1, 1, 2],
            num_res_blocks=1,
            temperal_downsample=[True, True],
            latents_mean=[0.3, -0.2, 0.1, 0.0],
            latents_std=[1.5, 0.5, 2.0, 1.0],
            scale_factor_spatial=4,
        ),
    }
    models = {name: randomise(model) for name, model in models.items()}
    parts = {
        "t5": T5Config.from_reference(models["t5"].config.to_dict()),
        "transformer": TransformerConfig.from_reference(models["transformer"].config),
        "vae": VAEConfig.from_reference(models["vae"].config),
    }
    found = Original(models, {}, parts)
    rules = {"t5": UMT5_RULES, "transformer": RULES, "vae": VAE_RULES}
    for part, like in found.generator().abstract_params.items():
        tensors = {name: x.numpy() for name, x in models[part].state_dict().items()}
        if part == "t5":  # the same tensor under a second name
            tensors.pop("encoder.embed_tokens.weight", None)
        found.params[part] = convert(tensors, like, rules[part])
    return found


class Toy(Wan):
    """A denoiser that compiles in no time, for what does not depend on which one it is."""

    def _estimate_clean(self, params, condition, latents, index):
        return jnp.sin(latents) + 0.1 * jnp.asarray(index, jnp.float32)


@pytest.fixture
def toy(original):
    """`toy(**sampler)`: a generator around a toy denoiser."""
    return lambda **sampler: Toy(original.generator(**sampler).config, {"t5": LETTERS})


def keys_of(generator, seed=0):
    """The keys of the path (0, 0, ...)."""
    keys = [jax.random.fold_in(jax.random.key(seed), 0)]
    while len(keys) < generator.num_segments:
        keys.append(jax.random.fold_in(keys[-1], 0))
    return keys


def grow(generator, keys, params=None):
    """Branches after each of the segments."""
    condition = params and jax.tree.map(lambda x: x[0], generator.encode(params, [PROMPT]))
    branch, branches = generator.init(params, condition, keys[0]), []
    first = jax.jit(lambda b, k: generator.advance(params, condition, b, k, 0))
    later = jax.jit(lambda b, k, s: generator.advance(params, condition, b, k, s, "next"))
    for segment, key in enumerate(keys):
        branch = later(branch, key, jnp.int32(segment)) if segment else first(branch, key)
        branches.append(branch)
    return branches


def start_of(generator, keys):
    key = jax.random.fold_in(jax.random.fold_in(keys[0], NOISE_TAG), 0)
    return np.asarray(jax.random.normal(key, generator.config.latent_shape))


@pytest.mark.parametrize(
    "settings",
    [
        dict(steps=7, steps_per_segment=3, shift=3.0),
        dict(solver="euler", steps=4, steps_per_segment=4, shift=5.0, guidance=1.0),
    ],
    ids=["unipc", "euler, unguided"],
)
def test_videos_are_those_of_the_published_pipeline(original, settings):
    generator = original.generator(**settings, negative_prompt="c")
    keys, sampler = keys_of(generator), generator.config.sampler
    run = original.pipeline(sampler)
    with torch.no_grad():
        call = dict(
            prompt=PROMPT,
            negative_prompt="c",
            height=sampler.height,
            width=sampler.width,
            num_frames=sampler.frames,
            num_inference_steps=sampler.steps,
            guidance_scale=sampler.guidance,
            max_sequence_length=sampler.text_length,
            latents=torch.tensor(start_of(generator, keys)).permute(3, 0, 1, 2)[None],
        )
        wanted = run(**call, output_type="latent").frames[0].permute(1, 2, 3, 0).numpy()
        frames = run(**call, output_type="np").frames[0]
    branch = grow(generator, keys, original.params)[-1]
    latents = generator.estimate(original.params, None, branch, generator.num_segments - 1)
    error = np.abs(latents - wanted).max() / np.abs(wanted).max()
    assert error <= PIPELINE_TOLERANCE
    found = jax.jit(generator.decode)(original.params, latents)
    assert found.shape == (sampler.frames, sampler.height, sampler.width, 3)
    assert frames.std() > 0.01
    assert np.abs(found - frames).max() <= PIPELINE_TOLERANCE


def test_it_is_a_generator_of_one_unit(toy):
    generator = toy(steps=7, steps_per_segment=3)
    assert isinstance(generator, Generator)
    assert generator.num_segments == 3 and generator.units == (3,)
    assert sum(generator.nfe(s) for s in range(3)) == 7 * 2


@pytest.mark.parametrize("solver", ["unipc", "euler"])
def test_segments_of_any_length_give_the_same_video(toy, solver):
    whole = toy(steps=6, steps_per_segment=6, solver=solver)
    wanted = grow(whole, keys_of(whole))[-1].latents
    generator = toy(steps=6, steps_per_segment=4, solver=solver)
    found = grow(generator, keys_of(generator))[-1].latents
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_only_the_sde_tells_siblings_apart(toy, eta):
    """Children that part after segment 0 differ if, and only if, steps draw noise."""
    generator = toy(steps=4, steps_per_segment=2, eta=eta)
    assert generator.stochastic == bool(eta)
    keys = keys_of(generator)
    fork = [keys[0], jax.random.fold_in(keys[0], 1)]
    one, other = (grow(generator, ks)[-1].latents for ks in (keys, fork))
    assert bool((one != other).any()) == bool(eta)


def test_estimates_end_at_the_video(toy):
    generator = toy(steps=8, steps_per_segment=3, solver="euler")
    branches = grow(generator, keys_of(generator))

    def look(segment, ahead):
        return generator.estimate(None, None, branches[segment], segment, ahead)

    np.testing.assert_array_equal(look(2, "clean"), branches[2].latents)
    np.testing.assert_array_equal(look(0, "clean"), branches[0].clean)
    # with as many steps as the ODE solver has left, the estimate is the video
    np.testing.assert_allclose(look(0, 4), branches[2].latents, atol=1e-5)
    assert bool((look(0, 1) != look(0, 0)).any())


def test_renoised_branches_have_the_level_they_go_back_to(toy):
    generator = toy(steps=5, steps_per_segment=2)
    key, keys = jax.random.key(9), keys_of(generator)
    branches = grow(generator, keys)
    levels = generator.config.sampler.schedule.levels

    def renoise(depth, to, strength):
        return generator.renoise(None, None, branches[depth - 1], key, depth, to, strength)

    fresh = jax.random.normal(jax.random.fold_in(key, NOISE_TAG), generator.config.latent_shape)
    kept = (1 - levels[2]) / (1 - levels[4])
    added = np.sqrt(levels[2] ** 2 - (kept * levels[4]) ** 2)
    wanted = kept * branches[1].latents + added * fresh
    np.testing.assert_allclose(renoise(2, 1, 1.0).latents, wanted, atol=1e-5)
    wanted = branches[1].latents + 0.3 * levels[4] * fresh
    np.testing.assert_allclose(renoise(2, 2, 0.3).latents, wanted, atol=1e-5)
    done = generator.advance(None, None, renoise(3, 2, 1.0), keys[2], 2)
    assert bool(jnp.isfinite(done.latents).all())


def test_padding_of_a_prompt_is_zero(original):
    generator = original.generator()
    condition = generator.encode_prompt(original.params, PROMPT)
    assert condition.text.shape == (2, 6, 12)
    used = [bool(row.any()) for row in np.asarray(condition.text[1])]
    assert used == [True] * 4 + [False] * 2


def test_prompts_are_read_as_the_pipeline_reads_them():
    assert clean_prompt(" a  cat\n&amp;amp; a&nbsp;dog ") == "a cat & a dog"


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(frames=7), "7 frames"),
        (dict(height=20), "20 x 32"),
        (dict(steps_per_segment=0), "steps_per_segment is 0"),
        (dict(solver="ddim"), "solver 'ddim'"),
    ],
    ids=str,
)
def test_impossible_settings_are_refused(toy, settings, message):
    with pytest.raises(ValueError, match=message):
        toy(**settings)


def test_published_settings_survive_a_file():
    for config, shape in (
        (WanConfig.wan2_1_1_3b(), (21, 60, 104, 16)),
        (WanConfig.wan2_1_14b(), (21, 90, 160, 16)),
    ):
        assert config.latent_shape == shape and config.sampler.num_segments == 10
        fields = json.loads(json.dumps(dataclasses.asdict(config)))
        assert WanConfig.from_json({"name": "wan", **fields}) == config
