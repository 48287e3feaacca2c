"""CogVideoX as a generator: the whole published pipeline, cut into segments."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
import torch
import transformers
from diffusers import (
    AutoencoderKLCogVideoX,
    CogVideoXDDIMScheduler,
    CogVideoXDPMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
)
from diffusers.schedulers import scheduling_dpm_cogvideox

from converters.cogvideox import TRANSFORMER_RULES, VAE_RULES
from converters.core import convert
from converters.t5 import T5_RULES
from tests.stand_ins import Letters
from tts_jax.checkpoints import CheckpointError, flatten
from tts_jax.generators import load_generator, save_generator
from tts_jax.generators.cogvideox.generator import CogVideoX, CogVideoXConfig, SamplerConfig
from tts_jax.generators.cogvideox.transformer import TransformerConfig
from tts_jax.generators.cogvideox.vae import VAEConfig
from tts_jax.generators.full_sequence import NOISE_TAG
from tts_jax.generators.protocol import Generator
from tts_jax.language.t5 import T5Config
from tts_jax.solvers import noise

PIPELINE_TOLERANCE = 1e-3
PROMPT = "a b"
VIDEO = dict(frames=9, height=16, width=24, text_length=4)
LETTERS = Letters(VIDEO["text_length"])
SCHEDULERS = {"ddim": CogVideoXDDIMScheduler, "dpm": CogVideoXDPMScheduler}


def randomise(model):
    """Draws every parameter, those of norms around 1 and biases around 0."""
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            centre = 1.0 if "norm" in name and tensor.ndim == 1 and "weight" in name else 0.0
            fan = tensor[0].numel() if tensor.ndim > 1 else 25
            tensor.copy_(centre + torch.randn(tensor.shape) * fan**-0.5)
    return model.eval()


@dataclasses.dataclass
class Original:
    """The parts of a tiny pipeline of the package, and a generator on the same weights."""

    t5: torch.nn.Module
    transformer: torch.nn.Module
    vae: torch.nn.Module
    params: dict
    parts: dict

    def generator(self, **sampler):
        config = SamplerConfig(**dict(solver="ddim", snr_shift=3.0) | VIDEO | sampler)
        return CogVideoX(CogVideoXConfig(sampler=config, **self.parts), {"t5": LETTERS})

    def pipeline(self, solver, snr_shift):
        scheduler = SCHEDULERS[solver](
            snr_shift_scale=snr_shift,
            prediction_type="v_prediction",
            rescale_betas_zero_snr=True,
            timestep_spacing="trailing",
        )
        pipeline = CogVideoXPipeline(None, None, self.vae, self.transformer, scheduler)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline


def make_original(rotary):
    torch.manual_seed(int(rotary))
    t5 = transformers.T5EncoderModel(
        transformers.T5Config(
            vocab_size=32,
            d_model=12,
            d_kv=4,
            num_heads=2,
            num_layers=1,
            d_ff=16,
            feed_forward_proj="gated-gelu",
        )
    )
    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        time_embed_dim=20,
        text_embed_dim=12,
        num_layers=2,
        sample_width=6,
        sample_height=4,
        sample_frames=9,
        max_text_seq_length=VIDEO["text_length"],
        use_rotary_positional_embeddings=rotary,
    )
    vae = AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 3,
        up_block_types=("CogVideoXUpBlock3D",) * 3,
        block_out_channels=(4, 4, 8),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        scaling_factor=0.7 if rotary else 1.15,
    )
    models = {"t5": randomise(t5), "transformer": randomise(transformer), "vae": randomise(vae)}
    parts = {
        "t5": T5Config.from_reference(t5.config.to_dict()),
        "transformer": TransformerConfig.from_reference(transformer.config),
        "vae": VAEConfig.from_reference(vae.config),
    }
    original = Original(**models, params={}, parts=parts)
    rules = {"t5": T5_RULES, "transformer": TRANSFORMER_RULES, "vae": VAE_RULES}
    for part, like in original.generator().abstract_params.items():
        tensors = {name: x.numpy() for name, x in models[part].state_dict().items()}
        if part == "t5":  # the same tensor under a second name
            tensors.pop("encoder.embed_tokens.weight", None)
        original.params[part] = convert(tensors, like, rules[part])
    return original


@pytest.fixture(scope="module", params=[False, True], ids=["2b", "5b"])
def original(request):
    return make_original(request.param)


class Toy(CogVideoX):
    """A denoiser that compiles in no time, for what does not depend on which one it is."""

    def _estimate_clean(self, params, condition, latents, index):
        return jnp.sin(latents) + 0.1 * jnp.asarray(index, jnp.float32)


def toy(**sampler):
    """A generator of the smallest sizes around a toy denoiser."""
    config = CogVideoXConfig(
        t5=T5Config(vocabulary=32, width=8, heads=1, head_size=4, layers=1, mlp=8),
        transformer=TransformerConfig(
            heads=1,
            head_size=16,
            layers=1,
            latent_channels=2,
            text_width=8,
            time_width=4,
            rotary=True,
        ),
        vae=VAEConfig(latent_channels=2, channels=(2, 2), layers=1, groups=1, scale=1.0),
        sampler=SamplerConfig(**dict(solver="ddim", snr_shift=3.0) | VIDEO | sampler),
    )
    return Toy(config, {"t5": LETTERS})


def condition_of(generator, params, prompt=PROMPT):
    return jax.tree.map(lambda x: x[0], generator.encode(params, [prompt]))


def keys_of(generator, seed=0):
    """The keys of the path (0, 0, ...)."""
    keys = [jax.random.fold_in(jax.random.key(seed), 0)]
    while len(keys) < generator.num_segments:
        keys.append(jax.random.fold_in(keys[-1], 0))
    return keys


def grow(generator, keys, params=None, stop=None):
    """Branches after each of the segments."""
    condition = params and condition_of(generator, params)
    branch, branches = generator.init(params, condition, keys[0]), []
    first = jax.jit(lambda b, k: generator.advance(params, condition, b, k, 0))
    later = jax.jit(lambda b, k, s: generator.advance(params, condition, b, k, s, "next"))
    for segment, key in enumerate(keys[:stop]):
        branch = later(branch, key, jnp.int32(segment)) if segment else first(branch, key)
        branches.append(branch)
    return branches


def draws(generator, keys):
    """The initial noise and that of every step."""
    shape, sampler = generator.config.latent_shape, generator.config.sampler
    tagged = [jax.random.fold_in(key, NOISE_TAG) for key in keys]
    start = jax.random.normal(jax.random.fold_in(tagged[0], 0), shape)
    steps = [
        jax.random.normal(jax.random.fold_in(tagged[i // sampler.steps_per_segment], i + 2), shape)
        for i in range(sampler.steps)
    ]
    return [torch.tensor(np.asarray(x)).permute(0, 3, 1, 2)[None] for x in (start, *steps)]


@pytest.mark.parametrize(
    "settings",
    [
        dict(solver="ddim", snr_shift=3.0, steps=6, steps_per_segment=2, guidance=6.0),
        dict(solver="dpm", snr_shift=1.0, steps=5, steps_per_segment=2, dynamic_guidance=True),
        dict(solver="dpm", snr_shift=1.0, steps=3, steps_per_segment=3, guidance=1.0),
    ],
    ids=["ddim", "dpm", "unguided"],
)
def test_videos_are_those_of_the_published_pipeline(original, settings, monkeypatch):
    generator = original.generator(**settings, negative_prompt="c")
    keys = keys_of(generator)
    start, *fresh = draws(generator, keys)
    # a second-order step, which is any but the first and the last, draws twice
    counts = [1 + (0 < i < len(fresh) - 1) for i in range(len(fresh))]
    drawn = iter([x for x, count in zip(fresh, counts, strict=True) for _ in range(count)])
    monkeypatch.setattr(scheduling_dpm_cogvideox, "randn_tensor", lambda *_, **__: next(drawn))
    sampler = generator.config.sampler
    tokens, _ = LETTERS.tokenize(["c", PROMPT])
    with torch.no_grad():
        texts = original.t5(torch.tensor(tokens)).last_hidden_state
        run = original.pipeline(sampler.solver, sampler.snr_shift)
        call = dict(
            prompt_embeds=texts[1:],
            negative_prompt_embeds=texts[:1],
            height=sampler.height,
            width=sampler.width,
            num_frames=sampler.frames,
            num_inference_steps=sampler.steps,
            guidance_scale=sampler.guidance,
            use_dynamic_cfg=sampler.dynamic_guidance,
            latents=start,
        )
        wanted = run(**call, output_type="latent").frames[0].permute(0, 2, 3, 1).numpy()
        frames = original.vae.decode(
            torch.tensor(wanted).permute(3, 0, 1, 2)[None] / original.vae.config.scaling_factor
        ).sample[0]
        frames = run.video_processor.postprocess_video(frames[None], output_type="np")[0]
    branch = grow(generator, keys, original.params)[-1]
    latents = generator.estimate(original.params, None, branch, generator.num_segments - 1)
    assert np.abs(latents - wanted).max() <= PIPELINE_TOLERANCE * np.abs(wanted).max()
    found = jax.jit(generator.decode)(original.params, latents)
    assert found.shape == (sampler.frames, sampler.height, sampler.width, 3)
    assert np.abs(found - frames).max() <= PIPELINE_TOLERANCE


def test_it_is_a_generator_of_one_unit():
    generator = toy(steps=7, steps_per_segment=3)
    assert isinstance(generator, Generator)
    assert generator.num_segments == 3 and generator.units == (3,)
    assert [generator.program(s) for s in range(3)] == ["first", "next", "next"]


@pytest.mark.parametrize("guidance", [1.0, 6.0])
@pytest.mark.parametrize("steps, size", [(1, 1), (6, 2), (7, 3), (7, 20)])
def test_a_video_takes_one_denoiser_call_a_step(guidance, steps, size):
    generator = toy(steps=steps, steps_per_segment=size, guidance=guidance)
    calls = [generator.nfe(s) for s in range(generator.num_segments)]
    assert sum(calls) == steps * (2 if guidance > 1 else 1)


def test_calls_are_those_that_are_charged(monkeypatch):
    generator = toy(steps=7, steps_per_segment=3)
    seen = []

    def counted(params, condition, latents, index):
        jax.debug.callback(lambda index: seen.append(int(index)), index)
        return 0.5 * latents

    def calls(result):
        jax.block_until_ready(result)
        jax.effects_barrier()
        count = len(seen)
        seen.clear()
        return 2 * count

    monkeypatch.setattr(generator, "_estimate_clean", counted)
    keys = keys_of(generator)
    branch = generator.init(None, None, keys[0])
    for segment, key in enumerate(keys):
        branch = generator.advance(None, None, branch, key, segment)
        assert calls(branch) == generator.nfe(segment)
    for look in ("clean", 0, 1, 2, 9):
        ahead = generator.estimate(None, None, branch, 1, look)
        assert calls(ahead) == generator.estimate_nfe(1, look)
    for to in (0, 1, 2):
        back = generator.renoise(None, None, branch, keys[0], 3, to, 1.0)
        assert calls(back) == generator.renoise_nfe(3, to)


def test_mapping_over_siblings_calls_the_denoiser_no_more_often(monkeypatch):
    """Whether a state is the last depends on the segment alone, which is not mapped over."""
    generator = toy(solver="dpm", steps=4, steps_per_segment=2)
    seen = []

    def counted(params, condition, latents, index):
        jax.debug.callback(lambda _: seen.append(None), latents)
        return 0.5 * latents

    monkeypatch.setattr(generator, "_estimate_clean", counted)
    keys = jax.random.split(jax.random.key(0), 3)
    branch = generator.init(None, None, keys[0])

    def advance(key, segment):
        return generator.advance(None, None, branch, key, segment, "next")

    jax.block_until_ready(jax.jit(jax.vmap(advance, (0, None)))(keys, jnp.int32(1)))
    jax.effects_barrier()
    assert 2 * len(seen) == generator.nfe(1) * len(keys)


def test_segments_of_any_length_give_the_same_video():
    whole = toy(steps=6, steps_per_segment=6)
    wanted = grow(whole, keys_of(whole))[-1].latents
    for size in (1, 4):
        generator = toy(steps=6, steps_per_segment=size)
        found = grow(generator, keys_of(generator))[-1].latents
        np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize(
    "settings, differ",
    [
        (dict(), False),
        (dict(eta=0.7), True),
        (dict(solver="dpm"), True),
        (dict(solver="dpm", eta=0.0), False),
    ],
    ids=str,
)
def test_only_the_sde_tells_siblings_apart(settings, differ):
    """Children that part after segment 0 differ if, and only if, steps draw noise."""
    generator = toy(steps=4, steps_per_segment=2, **settings)
    assert generator.stochastic == differ
    keys = keys_of(generator)
    fork = [keys[0], jax.random.fold_in(keys[0], 1)]
    one, other = (grow(generator, ks)[-1].latents for ks in (keys, fork))
    assert bool((one != other).any()) == differ


def test_a_chain_without_links_gives_what_its_key_gives():
    generator = toy(solver="dpm", steps=4, steps_per_segment=2)
    root = jax.random.key(5)
    plain = grow(generator, [root, root])[-1]
    for size in (1, 3):
        chain = noise.chain(root, size)
        found = grow(generator, [chain, chain])[-1]
        np.testing.assert_allclose(found.latents, plain.latents, atol=1e-6)


def test_estimates_end_at_the_video():
    generator = toy(steps=8, steps_per_segment=3)
    branches = grow(generator, keys_of(generator))

    def look(segment, ahead):
        return generator.estimate(None, None, branches[segment], segment, ahead)

    for ahead in ("committed", "clean", 0, 3):
        np.testing.assert_array_equal(look(2, ahead), branches[2].latents)
    with pytest.raises(ValueError, match="committed after segment 0"):
        look(0, "committed")
    np.testing.assert_array_equal(look(0, "clean"), branches[0].clean)
    np.testing.assert_array_equal(look(0, 0), branches[0].clean)
    # with as many steps as the ODE solver has left, the estimate is the video
    np.testing.assert_allclose(look(0, 4), branches[2].latents, atol=1e-5)
    np.testing.assert_array_equal(look(0, 9), look(0, 4))
    assert bool((look(0, 1) != look(0, 0)).any())


def test_renoised_branches_have_the_level_they_go_back_to():
    generator = toy(solver="dpm", steps=5, steps_per_segment=2)
    key, keys = jax.random.key(9), keys_of(generator)
    branches = grow(generator, keys)
    levels = generator.config.sampler.schedule.levels

    def renoise(depth, to, strength):
        return generator.renoise(None, None, branches[depth - 1], key, depth, to, strength)

    fresh = jax.random.normal(jax.random.fold_in(key, NOISE_TAG), generator.config.latent_shape)
    kept = levels[2] / levels[4]
    back = renoise(2, 1, 1.0)
    wanted = np.sqrt(kept) * branches[1].latents + np.sqrt(1 - kept) * fresh
    np.testing.assert_allclose(back.latents, wanted, atol=1e-5)
    np.testing.assert_array_equal(back.clean, back.previous)
    same = renoise(2, 2, 0.3)
    wanted = branches[1].latents + 0.3 * np.sqrt(1 - levels[4]) * fresh
    np.testing.assert_allclose(same.latents, wanted, atol=1e-5)
    done = generator.advance(None, None, renoise(3, 2, 1.0), keys[2], 2)
    assert bool(jnp.isfinite(done.latents).all())
    again = generator.advance(None, None, renoise(3, 0, 1.0), keys[0], 0)
    np.testing.assert_allclose(again.latents, branches[0].latents, atol=1e-5)
    for depth, to in ((1, 2), (3, 3), (0, 0), (4, 1)):
        with pytest.raises(ValueError, match="depth"):
            generator.renoise_nfe(depth, to)


def test_a_draft_has_the_same_segments_and_fewer_steps():
    generator = toy(steps=9, steps_per_segment=3, draft_steps_per_segment=1)
    draft = generator.draft()
    assert draft.num_segments == generator.num_segments
    assert sum(draft.nfe(s) for s in range(3)) == 6
    assert draft.draft() is None


def test_siblings_may_be_mapped_over():
    generator = toy(solver="dpm", steps=4, steps_per_segment=2)
    keys = keys_of(generator)
    parent = grow(generator, keys, stop=1)[0]
    children = jnp.stack([jax.random.fold_in(keys[0], i) for i in range(3)])

    def advance(key, segment):
        return generator.advance(None, None, parent, key, segment, "next")

    family = jax.jit(jax.vmap(advance, (0, None)))(children, jnp.int32(1))
    for key, latents in zip(children, family.latents, strict=True):
        alone = generator.advance(None, None, parent, key, 1)
        np.testing.assert_allclose(latents, alone.latents, atol=1e-5)


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(frames=7), "7 frames"),
        (dict(height=19), "19 x 24"),
        (dict(steps_per_segment=0), "steps_per_segment is 0"),
        (dict(solver="euler"), "solver 'euler'"),
    ],
    ids=str,
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        toy(**settings)


def test_published_settings_survive_a_file():
    for config, solver in (
        (CogVideoXConfig.cogvideox_2b(), "ddim"),
        (CogVideoXConfig.cogvideox_5b(), "dpm"),
    ):
        assert config.latent_shape == (13, 60, 90, 16)
        assert config.sampler.num_segments == 10 and config.sampler.solver == solver
        fields = json.loads(json.dumps(dataclasses.asdict(config)))
        assert CogVideoXConfig.from_json({"name": "cogvideox", **fields}) == config
    with pytest.raises(TypeError, match="unknown fields"):
        CogVideoXConfig.from_json({**fields, "clip": {}})


def test_a_checkpoint_folder_is_loaded_with_its_tokenizer(tmp_path):
    generator = toy()
    params = CogVideoX.init_params(generator)
    (tmp_path / "tokenizer").mkdir()
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁red", -1.0), ("▁", -2.0)]
    saved = tokenizers.Tokenizer(tokenizers.models.Unigram(pieces, 2, False))
    saved.add_special_tokens(["<pad>", "</s>"])
    saved.save(str(tmp_path / "tokenizer" / "tokenizer.json"))
    save_generator(tmp_path, generator, params)
    loaded, found = load_generator("cogvideox", tmp_path, steps=4, text_length=6)
    assert loaded.config.sampler.steps == 4
    assert loaded.config.transformer == generator.config.transformer
    assert loaded.tokenizer.tokenize(["red"])[0].shape == (1, 6)
    assert flatten(found).keys() == flatten(params).keys()
    (tmp_path / "tokenizer" / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match="tokenizer"):
        load_generator("cogvideox", tmp_path)


def test_an_empty_prompt_is_refused():
    with pytest.raises(ValueError, match="empty"):
        toy().encode(None, ["  "])
