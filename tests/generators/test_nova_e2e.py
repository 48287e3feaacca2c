"""Whole generations of NOVA against the original's, every random draw replayed."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from converters.core import convert
from converters.nova import transformer_rules
from tts_jax.checkpoints import abstract_params
from tts_jax.generators.nova import sampler as nova
from tts_jax.generators.nova.sampler import Plan, SamplerConfig
from tts_jax.generators.nova.schedule import DDPM, FlowMatching
from tts_jax.generators.nova.transformer import (
    Transformer,
    TransformerConfig,
    patchify,
    unpatchify,
)

FIRST = dict(atol=5e-5, rtol=0)
LATER = dict(atol=1e-3, rtol=0)
LATENTS = 3e-4  # of the largest

CASES = ("t2v", "i2v", "cfm", "t2i", "extras", "image_guidance", "nomixer")


@pytest.fixture(scope="module")
def fields(golden):
    return json.loads((golden("nova_e2e") / "config.json").read_text())


@pytest.fixture(scope="module")
def recorded(golden):
    return load_file(golden("nova_e2e") / "io.safetensors")


@pytest.fixture(scope="module")
def weights(golden):
    return load_file(golden("nova_e2e") / "weights.safetensors")


def settings(case, config):
    """Our sampler of a recorded case."""
    name = case["scheduler"]
    if name == "ddpm":
        solver = DDPM.from_reference(config[name])
        solver = dict(solver="ddpm", betas=solver.betas, offset=solver.offset)
        solver |= {k: config[name][k] for k in ("beta_start", "beta_end") if k in config[name]}
    else:
        solver = dict(solver="flow", shift=FlowMatching.from_reference(config[name]).shift)
    return SamplerConfig(
        frames=case["max_latent_length"],
        steps=case["num_inference_steps"],
        diffusion_steps=case["num_diffusion_steps"],
        guidance=case["guidance_scale"],
        flow=case["motion_flow"],
        rate=12.0 if case["fps"] is None else case["fps"],
        least_guidance=case.get("min_guidance_scale"),
        truncation=case.get("guidance_trunc", 0.0),
        least_norm=case.get("guidance_renorm"),
        image_guidance=case.get("image_guidance_scale"),
        num_train_timesteps=config[name]["num_train_timesteps"],
        rooms=2,
        **solver,
    )


class Case:
    """A recorded generation and our networks on its weights; samples are a leading axis."""

    def __init__(self, name, fields, recorded, weights):
        case = fields["cases"][name]
        self.name, self.recorded, self.samples = name, recorded, case["batch_size"]
        self.prefill = recorded["prefill"] if case.get("prefill") else None
        config = TransformerConfig.from_reference(
            fields | ({} if case["mixer"] else {"video_mixer_rank": None})
        )
        if not case["mixer"]:
            weights = {k: v for k, v in weights.items() if ".mixer." not in k}
        self.sampler, self.config = settings(case, fields), config
        self.graph, like = abstract_params(Transformer, config)
        self.params = convert(weights, like, transformer_rules(config))
        self.plan = Plan.of(self.sampler, config.tokens)

    def __getitem__(self, key):
        return self.recorded[f"{self.name}/{key}"]

    def run(self, function, *args):
        """A function of the networks and one sample, for all samples."""

        def call(params, *args):
            model = nnx.merge(self.graph, params)
            return jax.vmap(lambda *own: function(model, *own))(*args)

        return jax.jit(call)(self.params, *args)

    def by_pass(self, found):
        """[B, n, ...] as recorded, [n * B, ...]."""
        return np.asarray(found).swapaxes(0, 1).reshape(-1, *found.shape[2:])

    def prompts(self):
        states = [self.recorded[f"prompt_embeds_{b}"] for b in range(self.samples)]
        length = self.config.text_length
        mask = np.stack([np.arange(length) < len(x) for x in states])
        padded = np.stack([np.pad(x, ((0, length - len(x)), (0, 0))) for x in states])

        def embed(model, states, mask):
            both = model.text.pad(jnp.stack([states] * 2), jnp.stack([mask, mask & False]))
            motion = (jnp.full(2, x) for x in (self.sampler.flow, self.sampler.rate))
            return self.sampler.passes.expand(model.embed_prompt(both, *motion))

        return self.run(embed, padded, mask)

    def noises(self):
        """Draws of every generated frame, [frames, B, J, 1 + I, N, P]."""
        start = self["draw_noise_init"][:, :, None]
        parts = [start]
        if f"{self.name}/draw_noise_step" in self.recorded:
            parts.append(self["draw_noise_step"])
        draws = np.moveaxis(np.concatenate(parts, axis=2), 3, 1)
        return np.asarray(patchify(np.moveaxis(draws, -3, -1), self.config.patch))

    def latents(self):
        return np.moveaxis(self["latents"], 1, -1)


@pytest.mark.parametrize("name", CASES)
def test_a_generation_is_that_of_the_original(name, fields, recorded, weights):
    case = Case(name, fields, recorded, weights)
    sampler, config, plan = case.sampler, case.config, case.plan
    sizes = case["num_preds"]
    assert plan.sizes == tuple(sizes[sizes > 0])
    order = case["order"][..., 0].astype(np.int32)
    np.testing.assert_array_equal(np.argsort(case["draw_uniform"][..., 0], axis=1), order)
    prompt = case.prompts()
    np.testing.assert_allclose(case.by_pass(prompt), case["c"], **FIRST)
    guidance = jnp.asarray(nova.scales(sampler, plan))

    def generate(model, condition, order, draws):
        frame = nova.start_frame(model, condition, order)
        frame = nova.fill(
            model, sampler, plan, plan.groups(0), frame, guidance, lambda s, i: draws[s, i]
        )
        return unpatchify(frame.tokens, config.patch, config.grid)

    def go_on(model, first, *args):
        features, cache = nova.next_frame(model, sampler, *args)
        return features, model.video.mix(first, features), cache

    places = config.prompt_tokens + sampler.frames * config.condition_tokens
    first, cache = case.run(
        lambda model, prompt: nova.first_frame(model, sampler, prompt, places), prompt
    )
    video = np.zeros((case.samples, *case.latents().shape[1:]), np.float32)
    draws, condition = case.noises(), first
    for t in range(sampler.frames):
        if t:
            frames = np.full(case.samples, t)
            features, condition, cache = case.run(go_on, first, prompt, video, frames, cache)
            np.testing.assert_allclose(case.by_pass(features), case[f"video_out_t{t}"], **LATER)
        else:
            np.testing.assert_allclose(case.by_pass(first), case["video_out_t0"], **FIRST)
        if t == 0 and case.prefill is not None:
            video[:, 0] = np.moveaxis(case.prefill, 1, -1)
            continue
        np.testing.assert_allclose(
            case.by_pass(condition), case[f"frame_cond_t{t}"], **(LATER if t else FIRST)
        )
        made = t - (case.prefill is not None)
        video[:, t] = case.run(generate, condition, order, draws[made])
    wanted = case.latents()
    np.testing.assert_allclose(video, wanted, atol=LATENTS * np.abs(wanted).max(), rtol=0)


def test_features_of_every_step_are_those_of_the_original(fields, recorded, weights):
    case = Case("t2v", fields, recorded, weights)
    order = case["order"][..., 0].astype(np.int32)
    names = [m for key in recorded if (m := re.fullmatch(r"t2v/z_(t(\d+)_s(\d+))", key))]
    assert names

    def features(model, condition, canvas, order, known):
        tokens = patchify(canvas, case.config.patch)[order]
        return model.image(
            condition, model.blank[...][0], tokens, order, jnp.arange(len(order)) < known
        )

    rows = [], [], [], []
    for name in names:
        condition = case[f"frame_cond_t{name[2]}"]
        condition = condition.reshape(-1, case.samples, *condition.shape[1:]).swapaxes(0, 1)
        canvas = np.moveaxis(case[f"x_before_{name[1]}"], 1, -1)
        known = np.full(case.samples, case.plan.starts[int(name[3])])
        for row, part in zip(rows, (condition, canvas, order, known), strict=True):
            row.append(part)
    found = np.asarray(case.run(features, *map(np.concatenate, rows)))
    for name, own in zip(names, np.split(found, len(names)), strict=True):
        wanted = case[f"z_{name[1]}"]
        tolerance = FIRST if name[1] == "t0_s0" else LATER
        np.testing.assert_allclose(case.by_pass(own), wanted, **tolerance)
