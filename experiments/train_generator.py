"""Trains an embedded generator and its text tower on latents of rendered captions.

python -m experiments.train_generator --config=configs/train_generator.py --workdir=DIR \
    --config.vae=DIR_OF_TRAIN_VAE
python -m experiments.train_generator --config=configs/train_nova.py --workdir=DIR \
    --config.vae=DIR_OF_TRAIN_VAE

The same command goes on after a kill. Writes a checkpoint folder that `experiments.generate` reads
(`--config.generator.checkpoint=DIR/checkpoint`) and a picture of samples per evaluation.
"""

import json
import shutil
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments import cli
from experiments.training import Task, say, train, use_all_cores
from tts_jax.checkpoints import init_params, load_safetensors
from tts_jax.generators import GENERATORS, save_generator
from tts_jax.generators.nova import training as nova
from tts_jax.generators.protocol import Generator
from tts_jax.generators.pyramid_flow import training as pyramid_flow
from tts_jax.generators.pyramid_flow.vae import LatentFactors
from tts_jax.language.tokenizer import ASSET, open_tokenizer
from tts_jax.media import write_bytes, write_png
from tts_jax.nn.autoencoder import posterior_mode
from tts_jax.worlds import moving_shapes as world

TRAINING = {"pyramid_flow": pyramid_flow, "nova": nova}


def build_generator(config) -> tuple[Generator, dict]:
    """The generator of a training config around a trained VAE, and the VAE's parameters."""
    described = json.loads((Path(config.vae) / "vae.json").read_text())
    parts = {name: config[name].to_dict() for name in ("transformer", "text", "sampler")}
    build, config_type = GENERATORS[config.generator]
    model = config_type.from_json({**described, **parts})
    generator = build(model, {"text": open_tokenizer(ASSET, model.text.length)})
    vae = load_safetensors(Path(config.vae) / "vae.safetensors", generator.abstract_params["vae"])
    return generator, vae


def start_params(generator: Generator, config) -> dict:
    """Parameters that training starts from: fresh ones, or those of `config.initial`'s folders."""
    params, abstract = {}, generator.abstract_params
    for index, (name, network) in enumerate(generator.networks.items()):
        if name == "vae":
            continue
        if config.initial[name]:
            path = Path(config.initial[name]) / f"{name}.safetensors"
            params[name] = load_safetensors(path, abstract[name])
        else:
            params[name] = init_params(*network, config.seed + index)[1]
    return params


def encode_videos(generator, vae, texts, seeds, cache: Path) -> np.ndarray:
    """Latents of rendered captions in the denoiser's scale, cached, [N, T, h, w, C] float16."""
    if cache.exists():
        return np.load(cache)
    factors: LatentFactors = generator.config.latent_factors

    @jax.jit
    def encode(frames):
        pixels = frames.astype(jnp.float32) / 127.5 - 1
        moments = generator.network({"vae": vae}, "vae").encode(pixels)
        return factors.to_model(posterior_mode(moments)).astype(jnp.float16)

    parts = []
    for i in range(0, len(texts), 64):
        pairs = zip(texts[i : i + 64], seeds[i : i + 64], strict=True)
        frames = np.stack([np.round(world.render(t, int(s)) * 255) for t, s in pairs])
        parts.append(np.asarray(encode(frames.astype(np.uint8))))
        if i % 6400 == 0:
            say(f"encoded {i} of {len(texts)} videos")
    cache.parent.mkdir(parents=True, exist_ok=True)
    np.save(cache.with_suffix(".part.npy"), np.concatenate(parts))
    cache.with_suffix(".part.npy").rename(cache)
    return np.load(cache)


def sample(generator: Generator):
    """A jitted (params, conditions [B, ...], key) -> frames [B, T, H, W, 3], one branch each."""

    def one(params, condition, key):
        branch = generator.init(params, condition, key)
        branch = generator.advance(params, condition, branch, key, 0)

        def later(branch, unit):
            child = jax.random.fold_in(key, unit)
            return generator.advance(params, condition, branch, child, unit), None

        branch, _ = jax.lax.scan(later, branch, jnp.arange(1, generator.num_segments))
        last = generator.num_segments - 1
        return generator.decode(params, generator.estimate(params, condition, branch, last))

    return jax.jit(jax.vmap(one, in_axes=(None, 0, 0)))


def write_checkpoint(folder: Path, generator: Generator, params: dict) -> None:
    """Writes a generator of the captioned world, with its tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(ASSET, folder / "tokenizer.json")
    if not (folder / "config.json").is_file():
        write_bytes(folder / "config.json", json.dumps({"world": "moving_shapes"}).encode())
    save_generator(folder, generator, params)


def define(values: flags.FlagValues) -> None:
    """The program's own flags."""
    flags.DEFINE_string(
        "workdir", "runs/train_generator", "checkpoints, pictures and weights", flag_values=values
    )


def main(options: flags.FlagValues) -> None:
    """Trains what the config describes."""
    use_all_cores()
    config, workdir = options.config, Path(options.workdir)
    generator, vae = build_generator(config)
    family = TRAINING[config.generator]
    objective = family.Objective(**config.objective.to_dict())
    total = objective.size * jax.local_device_count()

    rng = np.random.default_rng(config.seed)
    pools = [[c for c in world.captions("train") if len(world.parse(c)) == n] for n in (1, 2)]
    texts = [pools[int(rng.random() < config.pairs)] for _ in range(config.videos)]
    texts = [pool[rng.integers(len(pool))] for pool in texts]
    seeds = rng.integers(2**31, size=config.videos)
    latents = encode_videos(generator, vae, texts, seeds, workdir / "latents.npy")
    tokens, _ = generator.tokenizer.tokenize(texts)

    def batch(step):
        draw = np.random.default_rng([config.seed, step])
        rows = draw.integers(config.videos, size=total)
        dropped = draw.random(total) < config.dropout
        return {"latents": latents[rows], "tokens": tokens[rows], "dropped": dropped}

    held_out = world.sample_captions("test", config.evaluate_captions, 0)
    run = sample(generator)

    def evaluate(average, step):
        params = {**average, "vae": vae}
        keys = jax.random.split(jax.random.key(1), len(held_out))
        conditions = generator.encode(params, held_out)
        parts = []
        for i in range(0, len(held_out), 20):
            rows = slice(i, i + 20)
            parts.append(run(params, jax.tree.map(lambda x, r=rows: x[r], conditions), keys[rows]))
        frames = np.concatenate([np.asarray(part) for part in parts])
        grades = [world.grade(f, c) for f, c in zip(frames, held_out, strict=True)]
        half = len(held_out) // 2
        shown = [np.concatenate(list(frames[i]), 1) for i in (0, 1, 2, 3, -4, -3, -2, -1)]
        write_png(workdir / f"samples_{step:06d}.png", np.concatenate(shown, 0))
        write_checkpoint(workdir / "checkpoint", generator, params)
        return {
            "success": np.mean([g.success for g in grades]),
            "facts": np.mean([g.facts for g in grades]),
            "facts_one": np.mean([g.facts for g in grades[:half]]),
            "facts_two": np.mean([g.facts for g in grades[half:]]),
            "success_one": np.mean([g.success for g in grades[:half]]),
            "success_two": np.mean([g.success for g in grades[half:]]),
        }

    loss = family.make_loss(generator, objective)
    params = start_params(generator, config)
    train(Task(params=params, loss=loss, batch=batch, evaluate=evaluate), config, workdir)


if __name__ == "__main__":
    sys.exit(cli.run(main, doc=__doc__, define=define, config="train_generator.py"))
