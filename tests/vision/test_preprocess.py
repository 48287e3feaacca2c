"""Resizing and normalisation against the reference pipelines of VBench."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tts_jax.vision.preprocess import CLIP_MEAN, CLIP_STD, clip_input


@pytest.fixture(scope="module")
def reference(golden):
    folder = golden("vbench")
    return np.load(folder / "clips.npz"), np.load(folder / "preprocess.npz")


@pytest.mark.parametrize("variant", ["float", "uint8"])
def test_small_inputs_match_whole(reference, variant):
    clips, wanted = reference
    names = [name for name in wanted if name.startswith(f"clip32_{variant}_")]
    assert names
    for name in names:
        clip = clips[name.removeprefix(f"clip32_{variant}_")]
        frame = min(range(len(clip)), key=lambda i: _distance(clip[i], wanted[name], variant))
        error = np.abs(_input(clip[frame], 32, variant) - wanted[name])
        assert np.sort(error.ravel())[: int(0.99 * error.size)].max() < 1e-4
        assert error.max() < (0.016 if variant == "uint8" else 1e-4)


def _input(frame, size, variant):
    x = clip_input(jnp.asarray(frame / np.float32(255)), size, quantise=variant == "uint8")
    return np.moveaxis(np.asarray(x), -1, 0)


def _distance(frame, wanted, variant):
    return np.abs(_input(frame, wanted.shape[-1], variant) - wanted).mean()


def test_frames_of_the_right_size_are_only_normalised():
    frames = jax.random.uniform(jax.random.key(0), (2, 3, 16, 16, 3))
    expected = (frames - jnp.array(CLIP_MEAN)) / jnp.array(CLIP_STD)
    np.testing.assert_allclose(clip_input(frames, 16), expected, atol=1e-6)


def test_the_centre_of_a_wide_frame_is_taken():
    frames = jnp.zeros((8, 24, 3)).at[:, 8:16].set(1.0)
    assert (clip_input(frames, 8, mean=(0,) * 3, std=(1,) * 3) == 1).all()
