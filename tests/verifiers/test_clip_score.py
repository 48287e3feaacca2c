"""CLIP score and the aesthetic predictors against the reference outputs."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from converters import aesthetic
from converters.clip import CLIP_IGNORED, CLIP_RULES
from converters.core import check, convert
from converters.registry import COMPONENTS
from tts_jax.nn.encoder import normalise
from tts_jax.verifiers.aesthetic import AestheticConfig, AestheticVerifier, HeadConfig
from tts_jax.verifiers.clip import CLIP
from tts_jax.verifiers.clip_score import ClipScoreVerifier, clip_pixels

read = COMPONENTS["clip_vit_large_patch14"].read


@pytest.fixture(scope="module")
def judge(open_judge):
    return open_judge("clip_readouts", CLIP, read, CLIP_RULES, CLIP_IGNORED)


class _Recorded:
    """Gives the recorded tokens."""

    def __init__(self, tokens):
        self.tokens = tokens

    def tokenize(self, prompts):
        return self.tokens[: len(prompts)], None


def test_the_score_is_the_mean_cosine_of_the_frames(judge):
    tokens = judge.io["input_ids"].astype(np.int32)
    verifier = ClipScoreVerifier(judge.config, _Recorded(tokens))
    query = verifier.prepare(judge.params, ["a", "b"])
    frames = jax.random.uniform(jax.random.key(0), (2, 3, 31, 40, 3))
    pixels = clip_pixels(frames.reshape(6, 31, 40, 3), judge.config.vision.size)
    images = judge.run(lambda model, x: normalise(model.vision.embed(x)), pixels)
    wanted = (images @ query[1]).reshape(2, 3).mean(1)
    found = jax.jit(verifier.score)(judge.params, frames, query[1])
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert np.abs(found).max() <= 1


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_the_heads_match(judge, golden, kind):
    folder, prefix = golden("clip_readouts"), f"laion_{kind}."
    stored = load_file(folder / "weights.safetensors")
    tensors = {n.removeprefix(prefix): t for n, t in stored.items() if n.startswith(prefix)}
    widths = tuple(judge.fields["laion_mlp_dims"][1:]) if kind == "mlp" else (1,)
    head = HeadConfig(inputs=judge.fields["projection_dim"], widths=widths)
    verifier = AestheticVerifier(AestheticConfig(vision=judge.config.vision, head=head))
    parts = {
        "vision": convert(
            {n: t for n, t in stored.items() if not n.startswith("laion")},
            verifier.abstract_params["vision"],
            aesthetic.TOWER_RULES,
            aesthetic.TOWER_IGNORED,
        ),
        "head": convert(
            aesthetic.prepare(tensors), verifier.abstract_params["head"], aesthetic.HEAD_RULES
        ),
    }
    model = nnx.merge(verifier.graph, parts)
    scores = jax.jit(model)(jnp.moveaxis(judge.io["pixel_values"], 1, -1))
    np.testing.assert_allclose(scores, judge.io[f"laion_{kind}"][:, 0], atol=1e-5)
    size = judge.config.vision.size
    frames = jax.random.uniform(jax.random.key(1), (2, 1, size, size, 3))
    query = verifier.prepare(parts, ["a"])[0]
    score = jax.jit(verifier.score)
    one, two = (score(parts, f, query) for f in (frames, jnp.repeat(frames, 2, axis=1)))
    np.testing.assert_allclose(one, two, atol=1e-5)


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_every_published_tensor_is_taken_once(golden, kind):
    shapes = json.loads((golden("manifests") / f"laion_aesthetic_{kind}.json").read_text())
    component = COMPONENTS[f"laion_aesthetic_{kind}"]
    _, like = component.abstract(component.published())
    steps = check(component.prepare(shapes), like, component.table(component.published()))
    assert len(steps) == len(shapes)
    tower = json.loads((golden("manifests") / "clip_vit_large_patch14.json").read_text())
    component = COMPONENTS["clip_l_vision"]
    _, like = component.abstract(component.published())
    steps = check(tower, like, component.table(component.published()), component.ignored)
    assert len(steps) == sum(name.startswith("vis") for name in tower)
