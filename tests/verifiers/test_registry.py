"""Loading verifiers by name, and the oracle."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tts_jax.checkpoints import CheckpointError
from tts_jax.language.clip_text import TextConfig
from tts_jax.language.tokenizer import ASSET, WorldTokenizer
from tts_jax.verifiers import load_verifier, save_verifier
from tts_jax.verifiers.clip import CLIP
from tts_jax.verifiers.viclip import ViCLIPConfig, ViClipVerifier
from tts_jax.vision.vit import VisionConfig
from tts_jax.worlds import moving_shapes as world


@pytest.fixture
def saved(tmp_path):
    tokenizer = WorldTokenizer()
    config = ViCLIPConfig(
        text=TextConfig(
            vocabulary=len(tokenizer.vocabulary),
            length=tokenizer.length,
            width=8,
            heads=2,
            layers=1,
            mlp=16,
            projection=4,
            eos_id=tokenizer.eos_id,
        ),
        vision=VisionConfig(
            size=32, patch=16, width=8, heads=2, layers=1, mlp=16, projection=4, frames=2
        ),
        stride=4,
    )
    verifier = ViClipVerifier(config, tokenizer)
    params = nnx.to_pure_dict(nnx.split(CLIP(config, rngs=nnx.Rngs(3)))[1])
    (tmp_path / "tokenizer.json").write_text(ASSET.read_text())
    (tmp_path / "config.json").write_text(json.dumps({"world": "moving_shapes"}))
    save_verifier(tmp_path, verifier, params)
    return tmp_path, verifier, params


def test_a_saved_verifier_scores_the_same(saved):
    folder, verifier, params = saved
    again, again_params = load_verifier("viclip", folder)
    assert again.config == verifier.config
    assert json.loads((folder / "config.json").read_text())["world"] == "moving_shapes"
    frames = jnp.asarray(world.render("a red circle moving up", 0))[None]
    scores = [
        v.score(p, frames, v.prepare(p, ["a red circle moving up"])[0])
        for v, p in ((verifier, params), (again, again_params))
    ]
    np.testing.assert_allclose(*scores, rtol=1e-2)


def test_what_cannot_be_loaded_is_one_error(saved, tmp_path_factory):
    folder, _, _ = saved
    with pytest.raises(ValueError, match="unknown verifier 'vclip'"):
        load_verifier("vclip")
    with pytest.raises(CheckpointError, match="no verifier 'clip'"):
        load_verifier("clip", folder)
    with pytest.raises(CheckpointError, match="does not exist"):
        load_verifier("clip", tmp_path_factory.mktemp("empty"))
    entries = json.loads((folder / "config.json").read_text())
    entries["verifiers"]["viclip"]["vision"]["width"] = 10
    (folder / "config.json").write_text(json.dumps(entries))
    with pytest.raises(CheckpointError, match=r"vision\.class_token"):
        load_verifier("viclip", folder)
    entries["verifiers"]["viclip"]["vision"]["depth"] = 10
    (folder / "config.json").write_text(json.dumps(entries))
    with pytest.raises(CheckpointError, match="depth"):
        load_verifier("viclip", folder)


def test_the_oracle_scores_facts_and_success_inside_a_program():
    oracle, params = load_verifier("oracle")
    caption = "a red circle moving up and a blue cross standing still"
    query = oracle.prepare(params, [caption, "a red circle moving up"])
    videos = jnp.stack([jnp.asarray(world.render(caption, 0)), jnp.zeros((9, 32, 32, 3))])
    scores = jax.jit(oracle.score)(params, videos, query[0])
    grades = [world.grade(np.asarray(video), caption) for video in videos]
    np.testing.assert_allclose(scores, [g.facts + g.success for g in grades], rtol=1e-6)
    assert scores[0] == 2.0
    with pytest.raises(world.CaptionError):
        oracle.prepare(params, ["a red circle"])
