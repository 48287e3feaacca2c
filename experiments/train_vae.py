"""Trains the causal video VAE of the embedded generator on rendered captions.

python -m experiments.train_vae --config=configs/train_vae.py --workdir=DIR

The same command goes on after a kill. Writes `vae.safetensors`, `vae.json` (the model's sizes and
the factors that bring its latents to unit variance) and, per evaluation, a picture of
reconstructions.
"""

import dataclasses
import functools
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from flax import nnx

from experiments import cli
from experiments.training import Task, train, use_all_cores
from tts_jax.checkpoints import init_params, save_safetensors
from tts_jax.generators.pyramid_flow.vae import (
    CausalVideoVAE,
    VAEConfig,
)
from tts_jax.media import write_png
from tts_jax.nn.autoencoder import posterior_mode, posterior_sample
from tts_jax.worlds import moving_shapes as world


def rendered_batch(seed: int, step: int, size: int, pairs: float) -> np.ndarray:
    """Videos of random training captions, [size, 9, 32, 32, 3] in [0, 1].

    Args:
      seed: of the whole run.
      step: the batch's number; equal (seed, step) give equal videos.
      size: number of videos.
      pairs: share of two-object captions.
    """
    rng = np.random.default_rng([seed, step])
    pools = [[c for c in world.captions("train") if len(world.parse(c)) == n] for n in (1, 2)]
    chosen = [pools[int(rng.random() < pairs)] for _ in range(size)]
    texts = [pool[rng.integers(len(pool))] for pool in chosen]
    return np.stack([world.render(text, int(rng.integers(2**31))) for text in texts])


def reconstruct(graph, params, frames):
    """Frames [B, T, H, W, 3] in [0, 1], encoded to the posterior's mode and decoded."""
    vae = nnx.merge(graph, params)
    decoded = vae.decode(posterior_mode(vae.encode(frames * 2 - 1)))
    return jnp.clip(decoded * 0.5 + 0.5, 0, 1)


def latent_factors(moments) -> dict[str, float]:
    """Shift and scale of first and later latent frames, from moments [B, T, h, w, 2C]."""
    mean = np.asarray(posterior_mode(moments))
    factors = {}
    for name, part in (("first_", mean[:, :1]), ("", mean[:, 1:])):
        factors |= {f"{name}shift": float(part.mean()), f"{name}scale": float(1 / part.std())}
    return factors


def define(values: flags.FlagValues) -> None:
    """The program's own flags."""
    flags.DEFINE_string(
        "workdir", "runs/train_vae", "checkpoints, pictures and weights", flag_values=values
    )


def main(options: flags.FlagValues) -> None:
    """Trains what the config describes."""
    use_all_cores()
    config, workdir = options.config, Path(options.workdir)
    model = VAEConfig(**config.model)
    graph, params = init_params(CausalVideoVAE, model, config.seed)

    def loss(params, batch, key):
        frames = batch.astype(jnp.float32) / 255
        vae = nnx.merge(graph, params)
        moments = vae.encode(frames * 2 - 1)
        mean, logvar = jnp.split(moments, 2, axis=-1)
        latents = posterior_sample(moments, jax.random.normal(key, mean.shape))
        error = vae.decode(latents) * 0.5 + 0.5 - frames
        # The mean over all pixels would leave small shapes to the background: weigh what is lit.
        lit = jnp.abs(frames - world.BACKGROUND).max(-1, keepdims=True)
        weight = 1 + config.lit_weight * lit
        pixel = (jnp.sqrt(error**2 + 1e-4) * weight).mean() / weight.mean()
        spread = 0.5 * (mean**2 + jnp.exp(logvar) - 1 - logvar).mean()
        total = pixel + config.kl_weight * spread
        return total, {"loss": total, "pixel": pixel, "kl": spread}

    def batch(step):
        frames = rendered_batch(config.seed, step, config.batch, config.pairs)
        return np.round(frames * 255).astype(np.uint8)

    held_out = world.sample_captions("test", config.evaluate_captions, 0)
    truth = np.stack([world.render(c, 10_000 + i) for i, c in enumerate(held_out)])
    run = jax.jit(functools.partial(reconstruct, graph))

    def evaluate(average, step):
        parts = [run(average, truth[i : i + 16]) for i in range(0, len(truth), 16)]
        decoded = np.concatenate([np.asarray(part) for part in parts])
        grades = [world.grade(f, c) for f, c in zip(decoded, held_out, strict=True)]
        shown = [np.concatenate(list(v), 1) for i in (-1, -2, 0, 1) for v in (truth[i], decoded[i])]
        write_png(workdir / f"reconstructions_{step:06d}.png", np.concatenate(shown, 0))
        return {
            "success": np.mean([g.success for g in grades]),
            "facts": np.mean([g.facts for g in grades]),
            "psnr": -10 * np.log10(np.mean((decoded - truth) ** 2)),
        }

    average = train(Task(params=params, loss=loss, batch=batch, evaluate=evaluate), config, workdir)
    frames = rendered_batch(config.seed + 1, 0, 256, config.pairs)
    moments = jax.jit(lambda p, x: nnx.merge(graph, p).encode(x * 2 - 1))(average, frames)
    save_safetensors(workdir / "vae.safetensors", average)
    described = {"vae": dataclasses.asdict(model), "latent_factors": latent_factors(moments)}
    (workdir / "vae.json").write_text(json.dumps(described, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(cli.run(main, doc=__doc__, define=define, config="train_vae.py"))
