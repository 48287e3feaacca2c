"""The training loss of NOVA (arXiv 2412.14169, after MAR, arXiv 2406.11838).

The video encoder reads all frames at once, each with the true ones before it. Of every frame a
random set of tokens, in random order, is known to the image encoder; the patch decoder denoises
others, each at several random times.

B videos  T frames  F frames of all videos  N tokens of a frame  P channels of one  D width
M condition tokens  K denoised tokens  R times of one  L text tokens
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from tts_jax.checkpoints import abstract_params
from tts_jax.generators.nova import sampler as nova
from tts_jax.generators.nova.generator import Nova
from tts_jax.generators.nova.sampler import SamplerConfig
from tts_jax.generators.nova.transformer import Transformer, patchify


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What a training step does.

    Attributes:
      size: B, on each device.
      targets: K; fewer where fewer are missing.
      times: R.
      history_noise: a video's frames are mixed with noise of a strength uniform in [0, this) where
        they are history, since at inference the history is the model's own work.
    """

    size: int
    targets: int
    times: int = 4
    history_noise: float = 0.0


def frame_conditions(
    model: Transformer, sampler: SamplerConfig, prompts: Array, latents: Array
) -> Array:
    """Condition tokens of all frames, each from the true frames before it.

    Args:
      model: the networks.
      sampler: settings.
      prompts: prompt tokens, [B, L + 2, D].
      latents: [B, T, H, W, C].

    Returns:
      [B, T, M, D].
    """
    single = dataclasses.replace(sampler, guidance=1.0, image_guidance=None)

    def one(prompt, latents):
        features = nova.all_frames(model, single, prompt[None], latents)[0]
        later = model.video.mix(jnp.broadcast_to(features[:1], features[1:].shape), features[1:])
        return jnp.concatenate([features[:1], later])

    return jax.vmap(one)(prompts, latents)


def draw_known(key: Array, tokens: int, frames: int) -> tuple[Array, Array]:
    """Random orders of the tokens of frames, and how many in front are known.

    As many are missing as the cosine of a uniform part of a quarter turn says, at least one: as
    often as in sampling.

    Args:
      key: random key.
      tokens: N.
      frames: number of frames, F.

    Returns:
      Orders, [F, N] int32, and counts in [0, N), [F] int32.
    """
    order_key, count_key = jax.random.split(key)
    orders = jnp.argsort(jax.random.uniform(order_key, (frames, tokens)), axis=-1)
    missing = jnp.cos(jnp.pi / 2 * jax.random.uniform(count_key, (frames,)))
    return orders.astype(jnp.int32), tokens - jnp.ceil(tokens * missing).astype(jnp.int32)


def loss(
    graph: nnx.GraphDef,
    params: Mapping,
    key: Array,
    latents: Array,
    states: Array,
    mask: Array,
    *,
    config: SamplerConfig,
    objective: Objective,
) -> tuple[Array, dict[str, Array]]:
    """Masked autoregressive diffusion loss of a training step.

    Args:
      graph: graph of the networks.
      params: their parameters, a nested dictionary.
      key: random key.
      latents: clean videos in the transformer's scale, [B, T, H, W, C].
      states: of the text encoder, [B, L, D_text].
      mask: tokens of the prompt, [B, L] bool; none where the video shall be made without one.
      config: the sampler's settings, whose diffusion is trained for.
      objective: what a step does.

    Returns:
      Mean squared error over denoised tokens, and the same of first and of later frames.
    """
    model = nnx.merge(graph, params)
    size, diffusion = model.config, config.diffusion
    batch, frames = latents.shape[:2]
    strength_key, history_key, known_key, time_key, noise_key = jax.random.split(key, 5)

    motion = (jnp.full(batch, value, jnp.float32) for value in (config.flow, config.rate))
    prompts = model.embed_prompt(model.text.pad(states, mask), *motion)
    strength = objective.history_noise * jax.random.uniform(strength_key, (batch, 1, 1, 1, 1))
    history = strength * jax.random.normal(history_key, latents.shape) + (1 - strength) * latents
    conditions = frame_conditions(model, config, prompts, history)
    conditions = conditions.reshape(batch * frames, 1, *conditions.shape[2:])

    clean = patchify(latents, size.patch).reshape(batch * frames, size.tokens, -1)
    orders, counts = draw_known(known_key, size.tokens, batch * frames)

    def encode(condition, tokens, order, count):
        valid = jnp.arange(size.tokens) < count
        features = model.image(condition, model.blank[...][0], tokens[order], order, valid)[0]
        ranks = count + jnp.arange(objective.targets)
        places = order[ranks % size.tokens]
        return features[places], tokens[places], ranks < size.tokens

    features, clean, missing = jax.vmap(encode)(conditions, clean, orders, counts)

    shape = objective.times, *clean.shape[:2]
    timesteps = jax.random.randint(time_key, shape, 0, config.num_train_timesteps)
    noise = jax.random.normal(noise_key, (*shape, clean.shape[-1]))
    noisy = diffusion.add_noise(clean, noise, timesteps)
    times = model.decoder.embed_times(diffusion.times(timesteps).astype(jnp.float32).reshape(-1))
    times = times.reshape(*shape, -1)
    made = model.decoder(noisy, model.decoder.embed_features(features) + times)
    errors = jnp.square(made - diffusion.target(clean, noise)).mean((0, -1))

    def mean(errors, missing):
        return jnp.sum(errors * missing) / jnp.sum(missing)

    errors, missing = (x.reshape(batch, frames, -1) for x in (errors, missing))
    return mean(errors, missing), {
        "first": mean(errors[:, 0], missing[:, 0]),
        "next": mean(errors[:, 1:], missing[:, 1:]),
    }


def make_loss(generator: Nova, objective: Objective) -> Callable:
    """The loss of a generator; see `loss`.

    Args:
      generator: the model.
      objective: what a step does.

    Returns:
      (params, batch, key) -> (loss, figures). A batch has "latents" [B, T, H, W, C], "tokens"
      [B, L] and "dropped" [B], whether a video shall be made without its prompt.
    """
    graph, _ = abstract_params(*generator.networks["transformer"])

    def run(params, batch, key):
        known = batch["tokens"] != generator.tokenizer.pad_id
        value, figures = loss(
            graph,
            params["transformer"],
            key,
            batch["latents"].astype(jnp.float32),
            generator.read_tokens(params, batch["tokens"]),
            known & ~batch["dropped"][:, None],
            config=generator.config.sampler,
            objective=objective,
        )
        return value, {"loss": value, **figures}

    return run
