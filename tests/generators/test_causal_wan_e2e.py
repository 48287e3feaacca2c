"""Whole generations of causal Wan against the original's, every random draw replayed."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from converters.core import convert
from converters.wan_transformer import ORIGINAL_RULES
from tts_jax.checkpoints import abstract_params
from tts_jax.generators.causal_wan.sampler import (
    SamplerConfig,
    denoise,
    read_past,
    split,
    start_past,
)
from tts_jax.generators.wan.transformer import Transformer, TransformerConfig

LATENTS = dict(atol=5e-5, rtol=0)
TABLES = dict(rtol=1e-6)
RUNS = (
    "t2v",
    "first1",
    "frame1",
    "i2v",
    "extend",
    "rolling",
    "context_noise",
    "nowarp",
    "siblings",
)


@pytest.fixture(scope="module")
def fields(golden):
    return json.loads((golden("causal_wan_e2e") / "config.json").read_text())


@pytest.fixture(scope="module")
def recorded(golden):
    """Recorded tensors; latents with channels last."""
    found = load_file(golden("causal_wan_e2e") / "io.safetensors")
    return {n: x.transpose(0, 1, 3, 4, 2) if x.ndim == 5 else x for n, x in found.items()}


@pytest.fixture(scope="module")
def model(golden, fields):
    config = TransformerConfig.from_original(fields["model"])
    tensors = load_file(golden("causal_wan_e2e") / "weights.safetensors")
    graph, like = abstract_params(Transformer, config)
    return nnx.merge(graph, jax.tree.map(jnp.asarray, convert(tensors, like, ORIGINAL_RULES)))


def sampler(fields, run):
    return SamplerConfig(
        chunk=run["num_frame_per_block"],
        first_alone=run["independent_first_frame"],
        steps=tuple(run["denoising_step_list"]),
        warped=run["warp_denoising_step"],
        shift=fields["timestep_shift"],
        context_time=run["context_noise"],
        window=run.get("local_attn_size", 0),
        sink=run.get("sink_size", 0),
    )


def test_the_runs_are_those_that_were_recorded(fields):
    assert set(fields["runs"]) == set(RUNS)


@pytest.mark.parametrize("name", RUNS)
def test_a_run_is_the_recorded_one(model, recorded, fields, name):
    run = fields["runs"][name]
    config, batch = sampler(fields, run), run["batch"]
    text = model.read(recorded["prompt_embeds"][:batch])
    given, start = recorded.get(f"{name}.initial_latent"), 0
    noise = recorded[f"{name}.noise"]
    if name == "siblings":  # of one parent, a path of another run
        parent, frames = recorded["t2v.final_latents"][:1], noise.shape[1]
        given = np.repeat(parent[:, :-frames], batch, axis=0)
        text = model.read(np.repeat(recorded["prompt_embeds"][:1], batch, axis=0))
        start = (parent.shape[1] - frames) // config.chunk
    done = 0 if given is None else given.shape[1]
    latents = np.zeros((batch, 0, *noise.shape[2:]), np.float32) if given is None else given
    chunks = split(done + noise.shape[1], config.chunk, first_alone=config.first_alone)
    graph, state = nnx.split(model)

    ends = np.cumsum(chunks)
    first_new = int(np.searchsorted(ends, done, side="right"))
    for place in range(first_new, len(chunks)):
        begin, index = int(ends[place] - chunks[place]), place - first_new + start
        draws = [
            recorded[f"{name}.chunk{index}.step{s}.noise"] for s in range(len(config.steps) - 1)
        ]

        @jax.jit
        def advance(latents, noise, draws, place=place, begin=begin):
            network, before = nnx.merge(graph, state), chunks[: place + 1]
            past = start_past(network, batch)
            if place:
                past = read_past(network, latents, text, before, config)
            return denoise(
                network,
                noise,
                text,
                past,
                begin,
                range(len(config.steps)),
                config,
                lambda step: draws[step - 1],
            )

        own = noise[:, begin - done : begin - done + chunks[place]]
        clean = advance(latents, own, jnp.asarray(np.stack(draws)))
        if (wanted := recorded.get(f"{name}.chunk{index}.step{len(draws)}.x0")) is not None:
            np.testing.assert_allclose(clean, wanted, **LATENTS)
        latents = np.concatenate([latents, clean], axis=1)
    wanted = recorded[f"{name}.final_latents"]
    np.testing.assert_allclose(latents[:, -wanted.shape[1] :], wanted, **LATENTS)


def test_times_and_levels_are_the_recorded_ones(recorded, fields):
    for name, run in fields["runs"].items():
        if (wanted := recorded.get(f"{name}.denoising_steps")) is not None:
            np.testing.assert_allclose(sampler(fields, run).times, wanted, **TABLES)
    for shift in (5, 8):
        every = SamplerConfig(shift=float(shift), steps=tuple(range(1001)))
        np.testing.assert_allclose(
            every.table, recorded[f"scheduler.shift{shift}.sigmas"], **TABLES
        )
        wanted = recorded[f"scheduler.shift{shift}.warped_0_to_1000"]
        np.testing.assert_allclose(every.times, wanted, **TABLES)
    own = SamplerConfig(shift=fields["timestep_shift"])
    levels = own.levels_of(recorded["scheduler.ops.t"])
    np.testing.assert_allclose(levels, own.table[recorded["scheduler.ops.index"]], **TABLES)


def test_what_cannot_be_sampled_is_refused():
    refused = {
        "segment is 'chunk' or 'step'": dict(segment="unit"),
        "chunk is 0": dict(chunk=0),
        "times in": dict(steps=(1001,)),
        "places in a table": dict(steps=(10.5,)),
        "does not hold a chunk of 3 and 2 that stay": dict(window=4, sink=2),
    }
    for sentence, settings in refused.items():
        with pytest.raises(ValueError, match=sentence):
            SamplerConfig(**settings)
    with pytest.raises(ValueError, match="8 latent frames are not chunks of 3 after the first"):
        split(8, 3, first_alone=True)
