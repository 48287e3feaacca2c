"""Our Wan denoiser computes what the one in the diffusers package does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import WanTransformer3DModel
from flax import nnx

from converters.core import convert
from converters.wan_transformer import RULES
from tts_jax.checkpoints import abstract_params
from tts_jax.generators.wan.transformer import Transformer, TransformerConfig
from tts_jax.nn.video_tokens import patchify, unpatchify

TOLERANCE = 1e-4
TEXT = 7


@pytest.fixture(scope="module")
def reference():
    """A tiny model of the package, every parameter random, norms and biases too."""
    torch.manual_seed(7)
    model = WanTransformer3DModel(
        num_attention_heads=3,
        attention_head_dim=20,
        in_channels=4,
        out_channels=4,
        text_dim=24,
        freq_dim=16,
        ffn_dim=50,
        num_layers=3,
    ).eval()
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            fan = tensor[0].numel() if tensor.ndim > 1 else 25
            tensor.copy_(centre + torch.randn(tensor.shape) * fan**-0.5)
    return model


@pytest.fixture(scope="module")
def model(reference):
    graph, like = abstract_params(Transformer, TransformerConfig.from_reference(reference.config))
    tensors = {name: tensor.numpy() for name, tensor in reference.state_dict().items()}
    return nnx.merge(graph, jax.tree.map(jnp.asarray, convert(tensors, like, RULES)))


@pytest.mark.parametrize("size", [(3, 4, 6), (1, 8, 2)], ids=str)
def test_velocities_are_those_of_the_reference(reference, model, size):
    random = np.random.default_rng(sum(size))
    latents = random.normal(size=(2, *size, 4)).astype(np.float32)
    text = random.normal(size=(2, TEXT, 24)).astype(np.float32)
    time = np.array([999.0, 19.0], np.float32)
    with torch.no_grad():
        wanted = reference(
            torch.tensor(latents).permute(0, 4, 1, 2, 3), torch.tensor(time), torch.tensor(text)
        ).sample.permute(0, 2, 3, 4, 1)
    found = nnx.jit(lambda model, *args: model(*args))(model, latents, text, time)
    assert found.dtype == jnp.float32
    wanted = wanted.numpy()
    assert np.abs(found - wanted).max() / np.abs(wanted).max() <= TOLERANCE


@pytest.mark.parametrize(
    "changes",
    [dict(image_dim=8), dict(patch_size=(2, 2, 2)), dict(qk_norm=None), dict(out_channels=3)],
    ids=str,
)
def test_settings_that_no_checkpoint_has_are_refused(reference, changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        TransformerConfig.from_reference(dict(reference.config) | changes)


def test_patches_are_put_back_where_they_were():
    latents = jax.random.normal(jax.random.key(0), (2, 3, 4, 6, 5))
    tokens = patchify(latents, 2)
    assert tokens.shape == (2, 18, 20)
    np.testing.assert_array_equal(unpatchify(tokens, (3, 2, 3), 2), latents)
