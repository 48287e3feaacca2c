"""The training loss of Pyramid-Flow (arXiv 2410.05954, `jy0205/Pyramid-Flow`).

Every sample is one unit at one stage, with the frames before it as a history corrupted by noise of
random strength, since at inference the history is the model's own work.

B batch  G groups  T latent frames  H W latent size  C latent channels. Channels last.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from tts_jax.checkpoints import abstract_params
from tts_jax.generators.pyramid_flow.denoiser import Clip
from tts_jax.generators.pyramid_flow.generator import PyramidFlow
from tts_jax.generators.pyramid_flow.history import gather_history, unit_times
from tts_jax.generators.pyramid_flow.sampler_config import SamplerConfig
from tts_jax.solvers.flow_matching import pyramid, upsample

HISTORY_NOISE = 1 / 3


@dataclass(frozen=True, kw_only=True)
class SubBatch:
    """Samples of one shape in a training step.

    Attributes:
      stage: stage index.
      first: whether the samples are first frames; later units have a history.
      size: number of samples.
      groups: divides `size`; samples of a group share their unit, which is drawn per group.
    """

    stage: int
    first: bool
    size: int
    groups: int = 1

    def __post_init__(self):
        if self.size % self.groups:
            raise ValueError(f"{self.size} samples do not split into {self.groups} groups")

    @property
    def name(self) -> str:
        """Label of the sub-batch in a report."""
        return f"stage{self.stage}/{'first' if self.first else 'next'}"


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What a training step does.

    Attributes:
      plan: its sub-batches, of samples on each device.
    """

    plan: tuple[SubBatch, ...]

    def __post_init__(self):
        parts = (part if isinstance(part, SubBatch) else SubBatch(**part) for part in self.plan)
        object.__setattr__(self, "plan", tuple(parts))

    @property
    def size(self) -> int:
        """Samples on each device."""
        return sum(part.size for part in self.plan)


class Pair(NamedTuple):
    """Input and target of the denoiser.

    Attributes:
      noisy: [B, T, h, w, C].
      velocity: target, same shape.
      timestep: diffusion time in [0, 1000], [B].
    """

    noisy: Array
    velocity: Array
    timestep: Array


def training_pair(
    key: Array,
    config: SamplerConfig,
    latents: Array,
    stage: int,
    unit: int | Array,
    first: bool,
) -> Pair:
    """A noisy unit at a random place of a stage, and the velocity there.

    Args:
      key: random key.
      config: the sampler's settings, whose schedule is trained for.
      latents: clean videos at full resolution, [B, frames, H, W, C].
      stage: stage index.
      unit: index of the unit; may be traced unless `first`.
      first: whether the unit is the first frame.
    """
    schedule = config.schedule
    batch = latents.shape[0]
    clean = jnp.take(latents, unit_times(config, unit, first), axis=1)
    levels = pyramid(clean, config.stages)
    end_data = levels[stage]
    start_data = upsample(levels[stage - 1]) if stage else jnp.zeros_like(end_data)

    place_key, noise_key = jax.random.split(key)
    place = jax.random.randint(place_key, (batch,), 0, config.num_train_timesteps)
    timestep = jnp.asarray(schedule.timesteps_per_stage[stage], jnp.float32)[place]
    ratio = jnp.asarray(schedule.sigmas_per_stage[stage], jnp.float32)[place]
    ratio = ratio[:, None, None, None, None]

    # Full-resolution noise, averaged and rescaled, is white again: draw it at the stage's size.
    noise = jax.random.normal(noise_key, end_data.shape, jnp.float32)
    start_sigma, end_sigma = float(schedule.start_sigmas[stage]), float(schedule.end_sigmas[stage])
    start = start_sigma * noise + (1 - start_sigma) * start_data
    end = end_sigma * noise + (1 - end_sigma) * end_data
    return Pair(ratio * start + (1 - ratio) * end, start - end, timestep)


def training_history(
    key: Array, config: SamplerConfig, latents: Array, stage: int, unit: int | Array
) -> tuple[Clip, ...]:
    """The history of a unit, mixed with noise of a strength uniform in [0, 1/3) per sample.

    Args:
      key: random key.
      config: the sampler's settings.
      latents: clean videos, [B, frames, H, W, C].
      stage: stage index.
      unit: index of the unit, at least 1; may be traced.
    """
    strength_key, noise_key = jax.random.split(key)
    strength = jax.random.uniform(
        strength_key, (latents.shape[0], 1, 1, 1, 1), maxval=HISTORY_NOISE
    )

    def corrupt(index, clip):
        noise = jax.random.normal(jax.random.fold_in(noise_key, index), clip.latents.shape)
        return clip._replace(latents=strength * noise + (1 - strength) * clip.latents)

    clips = gather_history(config, latents, unit, stage)
    return tuple(corrupt(index, clip) for index, clip in enumerate(clips))


def sub_batch_loss(
    model,
    config: SamplerConfig,
    key: Array,
    part: SubBatch,
    latents: Array,
    text: Array,
    mask: Array,
    pooled: Array,
) -> Array:
    """Mean squared error of the velocity over one sub-batch, each group at its own unit.

    Args:
      model: the denoiser.
      config: the sampler's settings.
      key: random key.
      part: stage, unit kind and groups.
      latents: clean videos, [B, frames, H, W, C].
      text, mask, pooled: their text conditions, [B, ...] each.
    """

    def group_loss(key, latents, text, mask, pooled):
        unit_key, pair_key, history_key = jax.random.split(key, 3)
        unit = 0 if part.first else jax.random.randint(unit_key, (), 1, config.num_units)
        pair = training_pair(pair_key, config, latents, part.stage, unit, part.first)
        history = ()
        if not part.first:
            history = training_history(history_key, config, latents, part.stage, unit)
        times = unit_times(config, unit, part.first)
        velocity = model(pair.noisy, times, history, text, mask, pooled, pair.timestep)
        return jnp.mean(jnp.square(velocity - pair.velocity))

    def split(x):
        return x.reshape(part.groups, x.shape[0] // part.groups, *x.shape[1:])

    if part.groups == 1 or part.first:
        return group_loss(key, latents, text, mask, pooled)
    keys = jax.random.split(key, part.groups)
    return jax.vmap(group_loss)(keys, *map(split, (latents, text, mask, pooled))).mean()


def loss(
    graph: nnx.GraphDef,
    params: Mapping,
    key: Array,
    latents: Array,
    text: Array,
    mask: Array,
    pooled: Array,
    *,
    config: SamplerConfig,
    plan: Sequence[SubBatch],
) -> tuple[Array, dict[str, Array]]:
    """Flow-matching loss of a training step.

    Args:
      graph: graph of the denoiser.
      params: its parameters, a nested dictionary.
      key: random key.
      latents: clean videos in the denoiser's latent space, [B, frames, H, W, C]; the sub-batches
        take consecutive rows, so B is the sum of their sizes.
      text: text states, some replaced by those of the empty prompt, [B, L, D_text].
      mask: 1 for a real token, [B, L].
      pooled: pooled text vectors, [B, D_pooled].
      config: the sampler's settings.
      plan: the sub-batches.

    Returns:
      Mean over samples, and the mean of each kind of sub-batch by name.

    Raises:
      ValueError: the plan does not use every row once.
    """
    total = sum(part.size for part in plan)
    if total != latents.shape[0]:
        raise ValueError(f"the plan takes {total} samples, the batch has {latents.shape[0]}")
    model = nnx.merge(graph, params)
    sums: dict[str, Array] = {}
    counts: dict[str, int] = {}
    row = 0
    for index, part in enumerate(plan):
        rows = slice(row, row + part.size)
        inputs = (x[rows] for x in (latents, text, mask, pooled))
        value = sub_batch_loss(model, config, jax.random.fold_in(key, index), part, *inputs)
        sums[part.name] = sums.get(part.name, 0.0) + part.size * value
        counts[part.name] = counts.get(part.name, 0) + part.size
        row += part.size
    return sum(sums.values()) / total, {name: sums[name] / counts[name] for name in sums}


def make_loss(generator: PyramidFlow, objective: Objective) -> Callable:
    """The loss of a generator with one text tower; see `loss`.

    Args:
      generator: the model.
      objective: what a step does.

    Returns:
      (params, batch, key) -> (loss, figures). A batch has "latents" [B, T, H, W, C], "tokens"
      [B, L] and "dropped" [B], whether a sample gets the empty prompt instead of its own.
    """
    graph, _ = abstract_params(*generator.networks["transformer"])
    unconditional, _ = generator.tokenizer.tokenize([""])

    def run(params, batch, key):
        tokens = jnp.where(batch["dropped"][:, None], unconditional, batch["tokens"])
        states, pooled = generator.network(params, "text")(tokens)
        value, figures = loss(
            graph,
            params["transformer"],
            key,
            batch["latents"].astype(jnp.float32),
            states,
            tokens != generator.tokenizer.pad_id,
            pooled,
            config=generator.config.sampler,
            plan=objective.plan,
        )
        return value, {"loss": value, **figures}

    return run
