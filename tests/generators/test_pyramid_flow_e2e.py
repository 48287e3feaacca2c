"""Whole generations against the original's, through the padded history."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from converters.core import convert
from converters.registry import COMPONENTS
from tts_jax.generators.pyramid_flow.history import gather_history, unit_times
from tts_jax.generators.pyramid_flow.sampler import Condition, guide, predict, sample_unit
from tts_jax.generators.pyramid_flow.sampler_config import SamplerConfig
from tts_jax.solvers.flow_matching import coarse_noise, ode_step, stage_jump

TOLERANCE = 3e-3


class Run:
    """One recorded generation, channels last and without the batch axis."""

    def __init__(self, name, config, tensors):
        self.tensors = {k: v for k, v in tensors.items() if k.startswith(name + ".")}
        self.name = name
        noise = self["init_noise"]
        self.config = SamplerConfig(
            frames=config["temp"],
            height=noise.shape[1],
            width=noise.shape[2],
            channels=noise.shape[3],
            frames_per_unit=config["frame_per_unit"],
            steps_first=config["num_inference_steps"],
            steps=config["video_num_inference_steps"],
            guidance_first=config["guidance_scale"],
            guidance=config["video_guidance_scale"],
            **config["scheduler"],
        )
        text, mask, pooled = (
            jnp.concatenate([tensors[f"{name}.{side}.{kind}"] for side in ("neg", "pos")])
            for kind in ("prompt_embeds", "prompt_attention_mask", "pooled_prompt_embeds")
        )
        scales = jnp.asarray([self.config.guidance_first, self.config.guidance], jnp.float32)
        self.condition = Condition(text, mask, pooled, scales)

    def __contains__(self, key):
        return f"{self.name}.{key}" in self.tensors

    def __getitem__(self, key):
        value = self.tensors[f"{self.name}.{key}"]
        return np.moveaxis(value[0], 0, -1) if value.ndim == 5 else value

    def pair(self, key):
        return np.moveaxis(self.tensors[f"{self.name}.{key}"], 1, -1)

    def noise(self, unit):
        start, frames = self.config.unit_start(unit), self.config.unit_frames(unit == 0)
        return jnp.asarray(self["init_noise"][start : start + frames])

    def block_noises(self, unit):
        stages = range(1, self.config.stages)
        return tuple(jnp.asarray(self[f"unit{unit}.stage{s}.block_noise"]) for s in stages)

    def before(self, unit):
        """The recorded video up to a unit, with nonsense where nothing is known yet."""
        video = np.full_like(self["final_latents"], 1e3)
        start = self.config.unit_start(unit)
        video[:start] = self["final_latents"][:start]
        return jnp.asarray(video)


@pytest.fixture(scope="module", params=["flux", "mmdit"])
def reference(golden, request):
    variant, folder = request.param, golden("pyramid_flow_e2e")
    configs = json.loads((folder / "config.json").read_text())
    tensors = load_file(folder / "io.safetensors")
    published = COMPONENTS[f"pyramid_flow_{variant}"]
    sizes = published.read(configs[f"{variant}_model"])
    graph, like = published.abstract(sizes)
    weights = load_file(folder / f"{variant}_weights.safetensors")
    params = convert(weights, like, published.table(sizes))
    model = nnx.merge(graph, jax.tree.map(jnp.asarray, params))
    runs = [
        Run(name, config, tensors)
        for name, config in configs.items()
        if config.get("model") == variant
    ]
    assert runs
    return model, runs


def test_every_stage_of_every_unit_ends_as_in_the_original(reference):
    model, runs = reference
    for run in runs:
        config = run.config

        def sample(video, unit, noise, block_noises, first, config=config, run=run):
            return sample_unit(
                model, config, video, unit, run.condition, noise, block_noises, first
            )

        sample = jax.jit(sample, static_argnames="first")
        video = jnp.full(run["final_latents"].shape, 1e3)
        for unit in range(config.num_units):
            ends = sample(video, unit, run.noise(unit), run.block_noises(unit), first=unit == 0)
            for stage, end in enumerate(ends):
                np.testing.assert_allclose(
                    end, run[f"unit{unit}.stage{stage}.latents_out"], atol=TOLERANCE, rtol=0
                )
            start = config.unit_start(unit)
            video = video.at[start : start + len(ends[-1])].set(ends[-1])
        np.testing.assert_allclose(video, run["final_latents"], atol=TOLERANCE, rtol=0)
        assert sample._cache_size() == 2


def test_history_clips_and_starting_noise_are_those_of_the_original(reference):
    _, runs = reference
    compared = 0
    for run in runs:
        for unit in range(run.config.num_units):
            if f"unit{unit}.start" not in run:
                continue
            start = coarse_noise(run.noise(unit), run.config.stages - 1)
            np.testing.assert_allclose(start, run[f"unit{unit}.start"], atol=1e-5)
            for stage in range(run.config.stages) if unit else ():
                clips = gather_history(run.config, run.before(unit)[None], unit, stage)
                found = [np.asarray(clip.latents)[0, np.asarray(clip.valid)] for clip in clips]
                found = [clip for clip in found if len(clip)]
                names = [f"unit{unit}.stage{stage}.past{c}" for c in range(len(found))]
                assert f"unit{unit}.stage{stage}.past{len(found)}" not in run
                for clip, name in zip(found, names, strict=True):
                    np.testing.assert_allclose(clip, run[name], atol=1e-5)
                    compared += 1
    assert compared


def test_every_denoiser_call_predicts_what_the_original_does(reference):
    model, runs = reference
    call_model = jax.jit(lambda *inputs: predict(model, *inputs))
    compared = 0
    for run in runs:
        config = run.config
        units = {int(re.search(r"unit(\d+)\.call", k)[1]) for k in run.tensors if ".call" in k}
        for unit in sorted(units):
            first, call = unit == 0, 0
            x = coarse_noise(run.noise(unit), config.stages - 1)
            for stage in range(config.stages):
                if stage:
                    noise = run.block_noises(unit)[stage - 1]
                    x = stage_jump(config.schedule, stage, x, noise)
                history = ()
                if not first:
                    history = gather_history(config, run.before(unit)[None], unit, stage)
                steps = (config.steps_first if first else config.steps)[stage]
                timesteps, ratios = config.schedule.set_timesteps(steps, stage)
                for k, timestep in enumerate(timesteps):
                    prefix = f"unit{unit}.call{call}"
                    np.testing.assert_allclose(timestep, run[f"{prefix}.timestep"], rtol=1e-6)
                    times = unit_times(config, unit, first)
                    out = call_model(x, times, history, run.condition, timestep)
                    np.testing.assert_allclose(
                        out, run.pair(f"{prefix}.model_out"), atol=TOLERANCE, rtol=0
                    )
                    velocity = guide(out, run.condition.guidance[0 if first else 1])
                    x = ode_step(x, velocity, float(ratios[k]), float(ratios[k + 1]))
                    call += 1
                    compared += 1
    assert compared
