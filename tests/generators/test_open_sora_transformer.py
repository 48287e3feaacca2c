"""Open-Sora's denoiser against recorded calls of the original."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from converters.core import convert
from converters.open_sora_transformer import IGNORED, RULES
from tts_jax.checkpoints import abstract_params
from tts_jax.generators.open_sora.transformer import (
    Transformer,
    TransformerConfig,
    position_table,
)

TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def fields(golden):
    return json.loads((golden("open_sora_stdit3") / "config.json").read_text())


@pytest.fixture(scope="module")
def recorded(golden):
    """Recorded tensors; latents with channels last."""
    found = load_file(golden("open_sora_stdit3") / "io.safetensors")
    return {n: x.transpose(0, 2, 3, 4, 1) if x.ndim == 5 else x for n, x in found.items()}


@pytest.fixture(scope="module")
def model(golden, fields):
    graph, like = abstract_params(Transformer, TransformerConfig.from_reference(fields))
    tensors = load_file(golden("open_sora_stdit3") / "weights.safetensors")
    params = convert(tensors, like, RULES, IGNORED)
    return nnx.merge(graph, jax.tree.map(jnp.asarray, params))


@pytest.fixture(scope="module")
def call(model, recorded):
    """`call(name, **changes)`: what our network makes of a recorded call's inputs."""
    run = nnx.jit(
        lambda model, x, y, t, size, **more: model(x, y, t, size=size, **more), static_argnums=4
    )

    def one(name, **changes):
        prefix = f"{name}.in."
        given = {n[len(prefix) :]: x for n, x in recorded.items() if n.startswith(prefix)} | changes
        size = tuple(float(given[key][0]) for key in ("height", "width"))
        more = {"rate": np.resize(given["fps"], len(given["x"]))}
        if "mask" in given:  # of guided calls, that of the prompts alone
            more["text_mask"] = np.resize(given["mask"] > 0, given["y"][:, 0].shape[:2])
        if "x_mask" in given:
            more["noisy"] = given["x_mask"]
        return run(model, given["x"], given["y"][:, 0], given["timestep"], size, **more)

    return one


def error(found, wanted):
    assert found.shape == wanted.shape and found.dtype == jnp.float32
    return np.abs(found - wanted).max() / np.abs(wanted).max()


def test_every_recorded_call_gives_what_was_recorded(call, recorded):
    names = [name.removesuffix(".out") for name in recorded if name.endswith(".out")]
    assert len(names) >= 4
    errors = {name: float(error(call(name), recorded[f"{name}.out"])) for name in names}
    assert max(errors.values()) <= TOLERANCE, errors


def test_a_mask_of_noisy_frames_alone_is_no_mask(call, recorded):
    x = recorded["plain.in.x"]
    found = call("plain", x_mask=np.ones(x.shape[:2], bool))
    assert error(found, recorded["plain.out"]) <= TOLERANCE


def test_what_is_masked_of_a_text_is_not_seen(call, recorded):
    text, mask = recorded["plain.in.y"], recorded["plain.in.mask"] > 0
    other = np.where(mask[:, None, :, None], text, 7.0).astype(np.float32)
    assert (mask.sum(1) < mask.shape[1]).any()
    np.testing.assert_array_equal(call("plain", y=other), call("plain"))


def test_columns_come_first_among_positions(fields, recorded):
    config = TransformerConfig.from_reference(fields)
    rows, columns = (-(-n // config.patch) for n in recorded["plain.in.x"].shape[2:4])
    size = tuple(float(recorded[f"plain.in.{n}"][0]) for n in ("height", "width"))
    found = position_table(config, rows, columns, size)
    wanted = recorded["plain.mid.pos_embed"][0]
    assert np.abs(found - wanted).max() <= TOLERANCE


@pytest.mark.parametrize(
    "changes",
    [
        dict(pred_sigma=False),
        dict(qk_norm=False),
        dict(patch_size=[2, 2, 2]),
        dict(num_heads=5),
        dict(skip_y_embedder=True),
    ],
    ids=str,
)
def test_settings_that_no_checkpoint_has_are_refused(fields, changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        TransformerConfig.from_reference(fields | changes)
