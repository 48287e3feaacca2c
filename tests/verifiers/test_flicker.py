"""Temporal flickering against the reference."""

import json

import jax.numpy as jnp
import numpy as np

from tts_jax.verifiers.flicker import FlickerVerifier, temporal_flickering


def test_it_matches_the_reference_on_every_clip(golden):
    folder = golden("vbench")
    clips = np.load(folder / "clips.npz")
    wanted = json.loads((folder / "temporal_flickering.json").read_text())
    found = {
        name: float(temporal_flickering(jnp.asarray(clips[name][None] / np.float32(255)))[0])
        for name in clips
    }
    for video in wanted["per_video"]:
        assert abs(found[video["video_path"]] - video["video_results"]) < 1e-6
    assert abs(np.mean(list(found.values())) - wanted["one_process"]) < 1e-6


def test_a_still_video_is_perfect_and_a_blinking_one_the_worst():
    still = jnp.full((4, 8, 8, 3), 0.3)
    blinking = jnp.zeros((4, 8, 8, 3)).at[::2].set(1.0)
    verifier = FlickerVerifier()
    query = verifier.prepare({}, ["anything"])[0]
    assert verifier.score({}, jnp.stack([still, blinking]), query).tolist() == [1.0, 0.0]
    assert verifier.score({}, still[None, :1], query).tolist() == [1.0]


def test_a_video_with_a_missing_value_has_no_score():
    frames = jnp.zeros((2, 3, 4, 4, 3)).at[0, 1, 0, 0, 0].set(jnp.nan)
    assert jnp.isnan(temporal_flickering(frames)).tolist() == [True, False]
