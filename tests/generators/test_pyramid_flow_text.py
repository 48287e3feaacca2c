"""The published text encoders together: which of them gives what to the denoiser."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from tokenizers.pre_tokenizers import ByteLevel

from converters.clip import CLIP_TEXT_IGNORED, CLIP_TEXT_RULES
from converters.core import convert
from converters.t5 import IGNORED, T5_RULES
from tts_jax.checkpoints import abstract_params
from tts_jax.generators import load_generator, save_generator
from tts_jax.generators.pyramid_flow.generator import PyramidFlow
from tts_jax.generators.pyramid_flow.mmdit import MMDiTConfig
from tts_jax.generators.pyramid_flow.text import TextEncoders, TextEncodersConfig
from tts_jax.language.clip_text import TextConfig
from tts_jax.language.t5 import T5Config

WORDS = ("▁red", "▁circle", "▁a", "▁", *"abcdeilr")
TEXTS = ["", "a red circle"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The tokenizers of a checkpoint, laid out as the converters copy them."""
    folder = tmp_path_factory.mktemp("checkpoint")
    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>"]
    ids = {token: index for index, token in enumerate([*tokens, "<|endoftext|>"])}
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((word, -1.0) for word in WORDS)]
    unigram = {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {
            "type": "Metaspace",
            "replacement": "▁",
            "prepend_scheme": "always",
            "split": True,
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "</s>", "type_id": 0}},
            ],
            "pair": [],
            "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}},
        },
        "model": {"type": "Unigram", "unk_id": 2, "vocab": pieces, "byte_fallback": False},
    }
    for name in ("flux/tokenizer", "mmdit/tokenizer", "mmdit/tokenizer_2"):
        (folder / name).mkdir(parents=True)
        (folder / name / "vocab.json").write_text(json.dumps(ids))
        (folder / name / "merges.txt").write_text("#version: 0.2\n")
    for name in ("flux/tokenizer_2", "mmdit/tokenizer_3"):
        (folder / name).mkdir(parents=True)
        (folder / name / "tokenizer.json").write_text(json.dumps(unigram))
    return folder


def original_clip(build, seed, **fields):
    """A random CLIP text tower of transformers, our config of it, and our parameters."""
    published = transformers.CLIPTextConfig(
        vocab_size=514,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=20,
        bos_token_id=512,
        eos_token_id=513,
        **fields,
    )
    torch.manual_seed(seed)
    model = build(published).eval()
    config = TextConfig.from_reference({**published.to_dict(), "architectures": [build.__name__]})
    return model, config, (CLIP_TEXT_RULES, CLIP_TEXT_IGNORED)


def original_t5(seed):
    """A random T5 encoder of transformers, our config of it, and its table."""
    published = transformers.T5Config(
        vocab_size=3 + len(WORDS),
        d_model=12,
        d_kv=4,
        d_ff=16,
        num_layers=1,
        num_heads=2,
        feed_forward_proj="gated-gelu",
    )
    torch.manual_seed(seed)
    model = transformers.T5EncoderModel(published).eval()
    return model, T5Config.from_reference(published.to_dict()), (T5_RULES, IGNORED)


@pytest.mark.parametrize("variant", ["flux", "mmdit"])
def test_states_come_from_t5_and_the_pooled_vector_from_clip(variant, folder):
    parts = {"clip": original_clip(transformers.CLIPTextModel, 0), "t5": original_t5(2)}
    if variant == "mmdit":
        projected = transformers.CLIPTextModelWithProjection
        parts["clip"] = original_clip(projected, 0, projection_dim=10)
        parts["clip_g"] = original_clip(projected, 1, projection_dim=6, hidden_act="gelu")
    config = TextEncodersConfig(**{name: part[1] for name, part in parts.items()})
    encoders = TextEncoders(config, config.open_tokenizers(folder / variant))
    params = {}
    for name, network in config.networks.items():
        model, _, table = parts[name]
        tensors = {key: value.detach().numpy() for key, value in model.state_dict().items()}
        converted = convert(tensors, abstract_params(*network)[1], *table)
        params[name] = jax.tree.map(jnp.asarray, converted)
    states, mask, pooled = encoders.encode(params, TEXTS)

    clip_ids = torch.tensor(encoders.tokenizers["clip"].tokenize(TEXTS)[0]).long()
    t5_ids, t5_mask = encoders.tokenizers["t5"].tokenize(TEXTS)
    with torch.no_grad():
        wanted = parts["t5"][0](
            torch.tensor(t5_ids).long(), attention_mask=torch.tensor(t5_mask).long()
        ).last_hidden_state
        if variant == "flux":
            vector = parts["clip"][0](clip_ids).pooler_output
        else:
            towers = parts["clip"][0], parts["clip_g"][0]
            vector = torch.cat([tower(clip_ids).text_embeds for tower in towers], dim=-1)
    np.testing.assert_allclose(states, wanted.numpy(), atol=1e-5)
    np.testing.assert_allclose(pooled, vector.numpy(), atol=1e-5)
    assert states.shape == (2, 128, config.width) and pooled.shape == (2, config.pooled_width)
    assert mask.sum(1).tolist() == [1, 4]


def encoders_config(variant):
    """Our configuration of small published encoders; no weights."""
    if variant == "flux":
        return {"clip": original_clip(transformers.CLIPTextModel, 0)[1], "t5": original_t5(2)[1]}
    projected = transformers.CLIPTextModelWithProjection
    return {
        "clip": original_clip(projected, 0, projection_dim=10)[1],
        "clip_g": original_clip(projected, 1, projection_dim=6)[1],
        "t5": original_t5(2)[1],
    }


@pytest.mark.parametrize("variant", ["flux", "mmdit"])
def test_a_generator_of_published_parts_loads_and_runs(
    variant, folder, tmp_path, make_generator, randomise
):
    shutil.copytree(folder / variant, tmp_path, dirs_exist_ok=True)
    sampler = dict(frames=2, stages=1, stage_range=(0.0, 1.0), steps_first=(1,), steps=(1,))
    config = make_generator(**sampler).config
    encoders = TextEncodersConfig(**encoders_config(variant))
    widths = {"text_width": encoders.width, "pooled_width": encoders.pooled_width}
    denoiser = dataclasses.replace(config.transformer, **widths)
    if variant == "mmdit":
        denoiser = MMDiTConfig(
            heads=2,
            head_size=8,
            blocks=2,
            latent_channels=4,
            table_size=8,
            base_size=4,
            **widths,
        )
    config = dataclasses.replace(
        config, transformer=denoiser, text=None, **encoders_config(variant)
    )
    built = PyramidFlow(config, config.open_tokenizers(tmp_path))
    save_generator(tmp_path, built, randomise(built.init_params(), 0))

    generator, params = load_generator("pyramid_flow", tmp_path, window=1)
    assert set(params) == {*encoders_config(variant), "transformer", "vae"}
    assert dataclasses.replace(generator.config.sampler, window=0) == config.sampler
    condition = jax.tree.map(lambda x: x[0], generator.encode(params, ["a red circle"]))
    branch = generator.init(params, condition, jax.random.key(0))
    for segment in range(generator.num_segments):
        branch = jax.jit(generator.advance, static_argnums=4)(
            params, condition, branch, jax.random.key(segment), segment
        )
    latents = generator.estimate(params, condition, branch, segment)
    frames = jax.jit(generator.decode)(params, latents)
    assert frames.shape == (3, 16, 16, 3) and np.isfinite(latents).all()
    np.testing.assert_allclose(frames, jax.jit(built.decode)(params, latents), atol=1e-5)


def test_widths_that_do_not_fit_are_refused(make_generator):
    config = make_generator().config
    with pytest.raises(ValueError, match="the denoiser wants"):
        dataclasses.replace(config, text=None, **encoders_config("mmdit"))


def test_encoders_that_do_not_belong_together_are_refused():
    tower = TextConfig.clip_vit_large_patch14()
    for fields in ({}, {"clip": tower}, {"text": tower, "clip": tower}):
        with pytest.raises(ValueError, match="text encoders"):
            TextEncodersConfig(**fields)
