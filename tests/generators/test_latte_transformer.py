"""Our Latte denoiser computes what the one in the diffusers package does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import LatteTransformer3DModel
from flax import nnx

from converters.core import convert
from converters.latte import RULES
from tests.published import randomise
from tts_jax.checkpoints import abstract_params
from tts_jax.generators.latte.transformer import Transformer, TransformerConfig

TOLERANCE = 1e-4
FRAMES, TEXT = 3, 7
SETTINGS = dict(
    num_attention_heads=2,
    attention_head_dim=12,
    in_channels=4,
    out_channels=8,
    num_layers=3,
    cross_attention_dim=24,
    attention_bias=True,
    sample_size=8,
    patch_size=2,
    activation_fn="gelu-approximate",
    num_embeds_ada_norm=1000,
    norm_type="ada_norm_single",
    norm_elementwise_affine=False,
    norm_eps=1e-6,
    caption_channels=20,
    video_length=FRAMES,
)


@pytest.fixture(scope="module")
def reference():
    return randomise(LatteTransformer3DModel(**SETTINGS), seed=7)


@pytest.fixture(scope="module")
def ours(reference):
    graph, like = abstract_params(Transformer, TransformerConfig.from_reference(reference.config))
    tensors = {name: tensor.numpy() for name, tensor in reference.state_dict().items()}
    model = nnx.merge(graph, convert(tensors, like, RULES))
    return jax.jit(lambda *args: model(*args))


def draw(frames, rows, columns):
    random = np.random.default_rng(frames + rows + columns)
    shapes = (2, frames, rows, columns, 4), (2, TEXT, SETTINGS["caption_channels"])
    return [random.normal(size=shape).astype(np.float32) for shape in shapes]


def error(found, wanted):
    return np.abs(np.asarray(found) - wanted).max() / np.abs(wanted).max()


@pytest.mark.parametrize("size", [(FRAMES, 4, 12), (1, 8, 8)], ids=str)
def test_predictions_are_those_of_the_reference(reference, ours, size):
    latents, text = draw(*size)
    time, seen = np.array([999, 19]), 4
    with torch.no_grad():
        wanted = reference(
            torch.tensor(latents).permute(0, 4, 1, 2, 3),
            torch.tensor(time),
            torch.tensor(text[:, :seen]),  # as the pipeline leaves padding out
        ).sample.permute(0, 2, 3, 4, 1)
    noise, variance = ours(latents, text, time, np.arange(TEXT)[None].repeat(2, 0) < seen)
    assert noise.dtype == jnp.float32
    assert error(noise, wanted[..., :4].numpy()) <= TOLERANCE
    assert error(variance, wanted[..., 4:].numpy()) <= TOLERANCE


def test_the_extent_of_positions_follows_the_size_in_training():
    for size, extent in ((64, 32), (128, 32), (32, 16)):
        fields = SETTINGS | {"sample_size": size}
        assert TransformerConfig.from_reference(fields).extent == extent


@pytest.mark.parametrize(
    "changes",
    [dict(out_channels=4), dict(norm_type="layer_norm"), dict(cross_attention_dim=16)],
    ids=str,
)
def test_settings_that_the_checkpoint_has_not_are_refused(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        TransformerConfig.from_reference(SETTINGS | changes)


def test_a_number_of_frames_without_positions_is_refused(ours):
    latents, text = draw(2, 8, 8)
    with pytest.raises(ValueError, match="2 frames; the denoiser takes 3, or 1"):
        ours(latents, text, np.array([1, 2]))
