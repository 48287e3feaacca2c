r"""Trains a verifier of the embedded world contrastively, on captions and near misses of them.

python -m experiments.train_verifier --config=configs/train_verifier_clip.py --workdir=DIR
python -m experiments.train_verifier --config=configs/train_verifier_viclip.py --workdir=DIR \
    --config.initial=DIR_OF_CLIP/checkpoint/clip.safetensors

The same command goes on after a kill. Writes `checkpoint/`, a folder that `config.verifiers` can
name, and at every evaluation a picture of held-out videos with their scores.

G trios in a batch  V = 3 G videos  M texts  T frames  H W frame size  L tokens.
"""

import functools
import shutil
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from flax import nnx
from safetensors.numpy import load_file

from experiments import cli
from experiments.training import Task, train
from tts_jax.checkpoints import CheckpointError, flatten, init_params, unflatten
from tts_jax.language.tokenizer import ASSET, open_tokenizer
from tts_jax.media import write_png
from tts_jax.verifiers import TRAINED, parse_config, save_verifier
from tts_jax.verifiers.clip import CLIP
from tts_jax.worlds import moving_shapes as world
from tts_jax.worlds import near_misses

NOTHING = -1


def change_kinds(name: str) -> tuple[str, ...]:
    """Which words of a caption the verifier can be expected to check."""
    return ("colour", "shape") if name == "clip" else ("colour", "shape", "motion")


def make_batch(config, model, tokenizer, step: int) -> dict[str, np.ndarray]:
    """Trios of videos and the texts they are held against.

    Args:
      config: name, seed, trios, texts, pairs, scenes, prefixes.
      model: the verifier's configuration.
      tokenizer: of its text tower.
      step: the batch's number; equal (seed, step) give equal batches.

    Returns:
      frames [G, 3, T, H, W, 3] uint8; shows [G, 3, 2], numbers of the scene and of the objects
      with motions that a video shows, or NOTHING; moves [G, 3, C], see `motions_by_colour`; tokens
      [G, K, L]; means [G, K, 2], the same for texts, where a text that does not speak of motion has
      NOTHING in the second place.
    """
    rng = np.random.default_rng([config.seed, step])
    kinds = change_kinds(config.name)
    numbers: dict = {None: NOTHING}

    def number(thing) -> int:
        return numbers.setdefault(thing, len(numbers))

    if model.vision.frames is None:
        count = 1
    else:
        count = 1 + int(rng.choice(len(config.prefixes), p=config.prefixes))
    still = count == 1
    frames, shows, moves, texts, means = [], [], [], [], []
    while len(frames) < config.trios:
        caption = _caption(rng, config.pairs)
        changes = near_misses.training_changes(caption, kinds[:2] if still else kinds)
        if not changes:
            continue
        if model.vision.frames is None:
            times = [int(rng.integers(world.FRAMES))]
        else:
            times = [model.stride * i for i in range(count)]
        changed = str(rng.choice(changes))
        samples = near_misses.trio(caption, changed, rng, times)
        frames.append([sample.frames for sample in samples])
        shows.append([[number(s.scene), number(s.objects)] for s in samples])
        moves.append([motions_by_colour(None if still else s.objects) for s in samples])
        chosen = [caption, changed, *rng.choice(changes, config.texts - 2)]
        for text in map(str, chosen):
            objects = world.parse(text)
            scene = number(near_misses.scene_of(objects))
            silent = rng.random() < config.scenes
            means.append([scene, NOTHING if silent or still else number(tuple(sorted(objects)))])
            texts.append(world.stage_prompts(text)[0] if silent else text)
    tokens, _ = tokenizer.tokenize(texts)
    shape = (config.trios, config.texts, -1)
    return {
        "frames": np.array(frames),
        "shows": np.array(shows, np.int32),
        "moves": np.array(moves, np.int32),
        "tokens": tokens.reshape(shape),
        "means": np.array(means, np.int32).reshape(shape),
    }


def motions_by_colour(objects) -> list[int]:
    """For each colour of the world 0 if absent, else 1 + its motion; NOTHING if that is unknown."""
    if objects is None:
        return [NOTHING] * len(world.COLOURS)
    found = {thing.colour: 1 + list(world.MOTIONS).index(thing.motion) for thing in objects}
    return [found.get(colour, 0) for colour in world.COLOURS]


def _caption(rng, pairs: float) -> str:
    pool = _pools()[int(rng.random() < pairs)]
    return pool[rng.integers(len(pool))]


@functools.cache
def _pools() -> list[list[str]]:
    return [[c for c in world.captions("train") if len(world.parse(c)) == n] for n in (1, 2)]


def soften(frames, key):
    """Imperfections of generated videos: blur, noise, shifts of colour, flicker of brightness.

    Args:
      frames: [V, T, H, W, 3] float in [0, 1].
      key: random key.

    Returns:
      Frames of the same shape, in [0, 1].
    """
    keys = jax.random.split(key, 6)
    videos, size = frames.shape[0], frames.shape[2]
    each = (videos, 1, 1, 1)
    width = jax.random.uniform(keys[0], (videos,), minval=0.05, maxval=1.1)
    distance = jnp.arange(size)[:, None] - jnp.arange(size)
    blur = jax.nn.softmax(-0.5 * (distance / width[:, None, None]) ** 2, axis=-1)
    noise = jax.random.normal(keys[1], frames.shape)
    noise *= 0.05 * jax.random.uniform(keys[2], (*each, 1))
    x = frames + noise * 0.5
    x = jnp.einsum("vhi,vtijc,vwj->vthwc", blur, x, blur) + noise * 0.5
    gain = jax.random.uniform(keys[3], (*each, 3), minval=0.9, maxval=1.08)
    offset = 0.02 * jax.random.normal(keys[4], (*each, 3))
    flicker = 0.02 * jax.random.normal(keys[5], (videos, frames.shape[1], 1, 1, 1))
    return jnp.clip(x * (gain + flicker) + offset, 0, 1)


def contrast(logits, matches):
    """Every match against all the row's mismatches: the InfoNCE loss with several positives.

    Args:
      logits: [R, C].
      matches: [R, C] bool; rows without a match do not count.

    Returns:
      Scalar, mean over matches.
    """
    others = jax.nn.logsumexp(jnp.where(matches, -1e9, logits), axis=1, keepdims=True)
    each = jax.nn.softplus(others - logits)
    return (each * matches).sum() / jnp.maximum(matches.sum(), 1)


def find_matches(shows, means):
    """Whether videos show what texts say.

    Args:
      shows: [V, 2], numbers of scene and objects.
      means: [M, 2], the same of the texts; NOTHING in the second place asks for the scene only.

    Returns:
      [V, M] bool.
    """
    scene = shows[:, None, 0] == means[None, :, 0]
    objects = shows[:, None, 1] == means[None, :, 1]
    return jnp.where(means[None, :, 1] == NOTHING, scene, objects)


def make_loss(graph, image: bool):
    """The training loss of a CLIP-like model: videos against texts and texts against videos.

    A video model must also tell by a linear reading of its embedding how each colour moves, which
    contrast alone teaches very late; that reading is not part of the verifier.
    """

    def loss(params, batch, key):
        reading = params.get("reading")
        model = nnx.merge(graph, {k: part for k, part in params.items() if k != "reading"})
        frames, tokens = batch["frames"], batch["tokens"]
        frames = frames.reshape(-1, *frames.shape[2:]).astype(jnp.float32) / 255
        frames = soften(frames, key)
        videos = model.embed_vision(frames[:, 0] if image else frames)
        texts = model.embed_text(tokens.reshape(-1, tokens.shape[-1]))
        logits = jnp.exp(jnp.minimum(params["logit_scale"], jnp.log(100.0))) * videos @ texts.T
        matches = find_matches(batch["shows"].reshape(-1, 2), batch["means"].reshape(-1, 2))
        by_video, by_text = contrast(logits, matches), contrast(logits.T, matches.T)
        hits = (
            jnp.where(matches, logits, -1e9).max(1) > jnp.where(matches, -1e9, logits).max(1)
        ) * (matches.any(1))
        total = (by_video + by_text) / 2
        figures = {}
        if reading is not None:
            moves = batch["moves"].reshape(videos.shape[0], -1)
            read = jnp.einsum("vd,dcm->vcm", videos * videos.shape[1] ** 0.5, reading["weight"])
            chances = jax.nn.log_softmax(read + reading["bias"])
            known = moves != NOTHING
            each = -jnp.take_along_axis(chances, jnp.maximum(moves, 0)[..., None], -1)[..., 0]
            motion = (each * known).sum() / jnp.maximum(known.sum(), 1)
            moving = known & (moves > 0)
            correct = (chances.argmax(-1) == moves) & moving
            total = total + motion
            figures = {"motion": motion, "read": correct.sum() / jnp.maximum(moving.sum(), 1)}
        figures |= {
            "loss": total,
            "to_text": by_video,
            "to_video": by_text,
            "first": hits.sum() / jnp.maximum(matches.any(1).sum(), 1),
            "scale": jnp.exp(params["logit_scale"]),
        }
        return figures["loss"], figures

    return loss


def warm_start(params: dict, path: str) -> dict:
    """Parameters with what another verifier's file has under the same names and in the same size.

    Args:
      params: nested dictionary.
      path: a `clip.safetensors`; ViCLIP starts from CLIP's towers, as in the original.

    Raises:
      CheckpointError: the file is missing, or shares no tower with the model.
    """
    if not Path(path).is_file():
        raise CheckpointError(f"checkpoint {path} does not exist")
    stored, flat = load_file(path), flatten(params)
    for name, leaf in flat.items():
        if name in stored and stored[name].size == leaf.size:
            flat[name] = jnp.asarray(stored[name].reshape(leaf.shape), leaf.dtype)
        elif name == "vision.time":  # as far apart as the places have come to be
            spread = np.std(stored["vision.position"].astype(np.float32))
            flat[name] = leaf * spread / jnp.std(leaf)
        else:
            raise CheckpointError(f"checkpoint {path} has no {name} of {leaf.size} numbers")
    return unflatten(flat, params)


class HeldOut:
    """Held-out captions, their videos, changed captions and near misses; built once."""

    def __init__(self, config, verifier):
        kinds = (*change_kinds(config.name), "number")
        self.verifier = verifier
        self.captions = world.sample_captions("test", config.evaluate_captions, 0)
        self.videos = np.stack(
            [world.render(text, 20_000 + i) for i, text in enumerate(self.captions)]
        )
        changes = [near_misses.one_word_changes(text, kinds) for text in self.captions]
        self.changed = {
            kind: [(i, text) for i, found in enumerate(changes) for text in found[kind]]
            for kind in kinds
        }
        rng = np.random.default_rng(0)
        times = list(range(world.FRAMES))
        wrong = near_misses.STATIC if config.name == "clip" else near_misses.MISSES
        self.misses = {}
        for kind in wrong:
            trios = []
            for text in self.captions[:: max(1, len(self.captions) // config.evaluate_misses)]:
                changed = near_misses.one_word_changes(text, ["colour"])["colour"][0]
                right, _, miss = near_misses.trio(text, changed, rng, times, kind)
                trios.append((text, right.frames, miss.frames))
            self.misses[kind] = trios
        self._embed = jax.jit(
            lambda params, frames: nnx.merge(verifier.graph, params).embed_vision(
                verifier._select(frames)
            )
        )

    def embed(self, params, frames) -> np.ndarray:
        """Unit embeddings of videos [N, T, H, W, 3], 50 at a time."""
        parts = [self._embed(params, frames[i : i + 50]) for i in range(0, len(frames), 50)]
        return np.concatenate([np.asarray(part) for part in parts])

    def evaluate(self, params, path: Path) -> dict[str, float]:
        """How often the right text, and the right video, has the higher score.

        Args:
          params: nested dictionary.
          path: of the picture to write.

        Returns:
          Accuracy per kind of change and of near miss; `accuracy` over all changed captions,
          `accuracy_soft` the same on softened videos, `strict` the share of videos whose caption
          beats all its changes, `misses` over all near misses.
        """
        right = np.asarray(self.verifier.prepare(params, self.captions))
        soft = np.asarray(soften(jnp.asarray(self.videos), jax.random.key(0)))
        found, all_wins, strict = {}, {"": [], "_soft": []}, np.ones(len(self.captions), bool)
        for suffix, videos in (("", self.videos), ("_soft", soft)):
            embedded = self.embed(params, videos)
            for kind, entries in self.changed.items():
                rows = [i for i, _ in entries]
                wrong = np.asarray(self.verifier.prepare(params, [text for _, text in entries]))
                own = (embedded * right).sum(1)[rows]
                wins = own > (embedded[rows] * wrong).sum(1)
                all_wins[suffix].append(wins)
                if not suffix:
                    found[kind] = wins.mean()
                    np.logical_and.at(strict, rows, wins)
        pictured = []
        for kind, trios in self.misses.items():
            texts = np.asarray(self.verifier.prepare(params, [text for text, _, _ in trios]))
            cosines = [
                (self.embed(params, np.stack([t[i] for t in trios]) / np.float32(255)) * texts).sum(
                    1
                )
                for i in (1, 2)
            ]
            found[f"miss_{kind}"] = (cosines[0] > cosines[1]).mean()
            pictured.append([(trios[0][i], cosines[i - 1][0]) for i in (1, 2)])
        _draw(path, pictured)
        return {
            "accuracy": np.concatenate(all_wins[""]).mean(),
            "accuracy_soft": np.concatenate(all_wins["_soft"]).mean(),
            "strict": strict.mean(),
            "misses": np.mean([v for k, v in found.items() if k.startswith("miss_")]),
            **found,
        }


def _draw(path: Path, rows) -> None:
    """A row per near miss: the right and the wrong video, the cosine as a bar under each."""
    drawn = []
    for row in rows:
        cells = []
        for frames, cosine in row:
            cell = np.concatenate(list(frames[::2]), 1)
            bar = np.zeros((3, cell.shape[1], 3), np.uint8)
            bar[:2, : int(max(cosine, 0) * cell.shape[1])] = 255
            cells.append(np.concatenate([cell, bar]))
        drawn.append(np.concatenate(cells, 1))
    write_png(path, np.concatenate(drawn))


def main(flags) -> None:
    """Trains what the config names."""
    logging.use_absl_handler()
    logging.set_verbosity(logging.INFO)
    config, workdir = flags.config, Path(flags.workdir)
    model = parse_config(config.name, config.model.to_dict())
    tokenizer = open_tokenizer(ASSET, model.text.length)
    verifier = TRAINED[config.name][0](model, tokenizer)
    graph, params = init_params(CLIP, model, config.seed)
    if config.initial:
        params = warm_start(params, config.initial)
    workdir.mkdir(parents=True, exist_ok=True)
    held_out = HeldOut(config, verifier)

    if verifier.needs == "video":
        shape = (model.vision.projection, len(world.COLOURS), 1 + len(world.MOTIONS))
        kernel = jax.random.normal(jax.random.key(config.seed), shape) * shape[0] ** -0.5
        params = {**params, "reading": {"weight": kernel, "bias": jnp.zeros(shape[1:])}}

    def evaluate(average, step):
        average = {name: part for name, part in average.items() if name != "reading"}
        save_verifier(workdir / "checkpoint", verifier, average)
        shutil.copy(ASSET, workdir / "checkpoint" / ASSET.name)
        return held_out.evaluate(average, workdir / f"near_misses_{step:06d}.png")

    task = Task(
        params=params,
        loss=make_loss(graph, image=verifier.needs == "image"),
        batch=functools.partial(make_batch, config, model, tokenizer),
        evaluate=evaluate,
    )
    train(task, config, workdir)


def define(values) -> None:
    """The program's own flags."""
    from absl import flags

    flags.DEFINE_string(
        "workdir", "runs/train_verifier", "checkpoints, pictures and weights", flag_values=values
    )


if __name__ == "__main__":
    sys.exit(cli.run(main, doc=__doc__, define=define, config="train_verifier_clip.py"))
