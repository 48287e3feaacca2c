"""Training of verifiers: batches, labels, the loss, and a warm start."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import train_verifier_clip, train_verifier_viclip
from experiments import train_verifier
from tts_jax.checkpoints import CheckpointError, flatten, init_params, save_safetensors
from tts_jax.language.tokenizer import WorldTokenizer
from tts_jax.verifiers import parse_config
from tts_jax.verifiers.clip import CLIP

CONFIGS = {"clip": train_verifier_clip, "viclip": train_verifier_viclip}


def setup(name):
    config = CONFIGS[name].get_config()
    config.trios = 3
    for tower in ("vision", "text"):
        config.model[tower].update(width=16, heads=2, layers=1, mlp=32, projection=8)
    model = parse_config(name, config.model.to_dict())
    return config, model, *init_params(CLIP, model)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_batch_depends_on_the_step_alone(name):
    config, model, _, _ = setup(name)
    first, again, other = (
        train_verifier.make_batch(config, model, WorldTokenizer(), step) for step in (4, 4, 5)
    )
    assert all(np.array_equal(first[key], again[key]) for key in first)
    assert not np.array_equal(first["tokens"], other["tokens"])
    assert first["frames"].dtype == np.uint8 and first["frames"].shape[:2] == (3, 3)


def test_the_right_video_matches_its_caption_and_the_others_do_not():
    config, model, _, _ = setup("viclip")
    config.scenes = 0.0
    config.prefixes = (0.0, 0.0, 0.0, 0.0, 1.0)
    batch = train_verifier.make_batch(config, model, WorldTokenizer(), 0)
    for shows, means in zip(batch["shows"], batch["means"], strict=True):
        matches = np.asarray(train_verifier.find_matches(jnp.array(shows), jnp.array(means)))
        assert matches[0].tolist() == [True, False, False, False]
        assert matches[1, 1] and not matches[1, 0] and not matches[2, 0]


def test_a_text_without_motion_matches_every_video_of_its_scene():
    shows = jnp.array([[0, 1], [0, 2], [0, -1], [3, 4], [-1, -1]])
    means = jnp.array([[0, -1], [0, 1]])
    assert train_verifier.find_matches(shows, means).tolist() == [
        [True, True],
        [True, False],
        [True, False],
        [False, False],
        [False, False],
    ]


def test_the_contrast_of_one_match_is_the_cross_entropy():
    logits = jax.random.normal(jax.random.key(0), (4, 6))
    matches = jnp.zeros((4, 6), bool).at[jnp.arange(3), jnp.array([2, 0, 5])].set(True)
    expected = -jax.nn.log_softmax(logits)[jnp.arange(3), jnp.array([2, 0, 5])].mean()
    np.testing.assert_allclose(train_verifier.contrast(logits, matches), expected, rtol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_loss_has_a_gradient_for_every_parameter(name):
    config, model, graph, params = setup(name)
    if name == "viclip":
        config.prefixes = (0.0, 0.0, 0.0, 0.0, 1.0)
    batch = train_verifier.make_batch(config, model, WorldTokenizer(), 0)
    loss = train_verifier.make_loss(graph, image=name == "clip")
    gradient, figures = jax.jit(jax.grad(loss, has_aux=True))(params, batch, jax.random.key(0))
    assert np.isfinite(figures["loss"])
    still = [n for n, g in flatten(gradient).items() if not float(jnp.abs(g).max()) > 0]
    assert set(still) <= {"text.blocks.attention.k.bias", "vision.blocks.attention.k.bias"}


def test_softened_frames_stay_recognisable():
    frames = jnp.zeros((2, 5, 32, 32, 3)).at[:, :, 8:20, 8:20, 0].set(0.9)
    soft = train_verifier.soften(frames, jax.random.key(0))
    assert soft.shape == frames.shape and float(soft.min()) >= 0 and float(soft.max()) <= 1
    assert 1e-4 < float(((soft - frames) ** 2).mean()) < 0.01


def test_viclip_starts_from_the_towers_of_clip(tmp_path):
    _, _, _, clip = setup("clip")
    save_safetensors(tmp_path / "clip.safetensors", clip, np.float32)
    _, _, _, viclip = setup("viclip")
    changed = jax.tree.map(lambda x: x + 1, viclip)
    started = flatten(train_verifier.warm_start(changed, str(tmp_path / "clip.safetensors")))
    for name, leaf in flatten(clip).items():
        np.testing.assert_array_equal(started[name].reshape(leaf.shape), leaf)
    drawn, position = flatten(viclip)["vision.time"], flatten(clip)["vision.position"]
    started = flatten(train_verifier.warm_start(viclip, str(tmp_path / "clip.safetensors")))
    ratio = np.asarray(started["vision.time"] / drawn)
    np.testing.assert_allclose(ratio, ratio.flat[0], rtol=1e-4)
    np.testing.assert_allclose(started["vision.time"].std(), position.std(), rtol=1e-4)
    with pytest.raises(CheckpointError, match="does not exist"):
        train_verifier.warm_start(viclip, str(tmp_path / "none.safetensors"))


def test_motions_are_read_by_colour():
    objects = train_verifier.world.parse("a blue square moving up and a red circle standing still")
    read = dict(
        zip(train_verifier.world.COLOURS, train_verifier.motions_by_colour(objects), strict=True)
    )
    motions = list(train_verifier.world.MOTIONS)
    assert read.pop("blue") == 1 + motions.index("moving up")
    assert read.pop("red") == 1 + motions.index("standing still")
    assert set(read.values()) == {0}
    assert set(train_verifier.motions_by_colour(None)) == {train_verifier.NOTHING}
