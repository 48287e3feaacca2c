"""What ships inside the package does what the README says of it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.train_generator import sample
from experiments.train_vae import reconstruct
from tts_jax.checkpoints import init_params
from tts_jax.generators import EMBEDDED, load_generator
from tts_jax.generators.pyramid_flow.vae import CausalVideoVAE
from tts_jax.verifiers import load_verifier
from tts_jax.worlds import moving_shapes as world
from tts_jax.worlds import near_misses


@pytest.fixture(scope="module")
def embedded():
    return load_generator("pyramid_flow")


@pytest.fixture(scope="module")
def rendered():
    captions = world.sample_captions("test", 40, 7)
    return captions, np.stack([world.render(c, 500 + i) for i, c in enumerate(captions)])


def test_the_assets_stay_small():
    def size(folder):
        return sum(path.stat().st_size for path in folder.rglob("*"))

    assert size(EMBEDDED / "nova") <= 15e6
    assert size(EMBEDDED) <= 40e6


def test_the_autoencoder_keeps_what_a_video_shows(embedded, rendered):
    generator, params = embedded
    captions, frames = rendered
    graph, _ = init_params(CausalVideoVAE, generator.config.vae)
    decoded = np.asarray(jax.jit(functools.partial(reconstruct, graph))(params["vae"], frames))
    kept = [world.grade(f, c).success for f, c in zip(decoded, captions, strict=True)]
    assert np.mean(kept) >= 0.95


@pytest.mark.parametrize("name, kinds", [("clip", ["colour", "shape"]), ("viclip", None)])
def test_verifiers_tell_a_caption_from_one_with_a_word_changed(rendered, name, kinds):
    verifier, params = load_verifier(name)
    captions, frames = rendered
    kinds = kinds or ["colour", "shape", "motion"]
    embed = jax.jit(
        lambda params, frames: nnx.merge(verifier.graph, params).embed_vision(
            verifier._select(frames)
        )
    )
    videos = np.asarray(embed(params, jnp.asarray(frames)))
    own = (videos * np.asarray(verifier.prepare(params, captions))).sum(1)
    wins = []
    for i, caption in enumerate(captions):
        changes = near_misses.one_word_changes(caption, kinds)
        texts = [text for kind in kinds for text in changes[kind]]
        wins += list(own[i] > np.asarray(verifier.prepare(params, texts)) @ videos[i])
    assert np.mean(wins) >= 0.95


@pytest.mark.parametrize("name, least", [("pyramid_flow", 0.6), ("nova", 0.4)])
def test_samples_of_held_out_captions_show_most_of_what_they_say(name, least):
    generator, params = load_generator(name)
    captions = world.sample_captions("test", 24, 3)
    conditions = generator.encode(params, captions)
    keys = jax.random.split(jax.random.key(0), len(captions))
    frames = np.asarray(sample(generator)(params, conditions, keys))
    facts = [world.grade(f, c).facts for f, c in zip(frames, captions, strict=True)]
    assert np.mean(facts) >= least
