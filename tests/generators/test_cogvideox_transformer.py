"""Our CogVideoX denoiser computes what the one in the diffusers package does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import CogVideoXTransformer3DModel
from flax import nnx

from converters.cogvideox import TRANSFORMER_RULES
from converters.core import convert
from tts_jax.checkpoints import abstract_params
from tts_jax.generators.cogvideox.transformer import (
    Transformer,
    TransformerConfig,
    patchify,
    unpatchify,
)

TOLERANCE = 1e-4
TEXT = 5


def make_reference(**changes):
    """A tiny model of the package, every parameter random, norms and biases too."""
    settings = dict(
        num_attention_heads=3,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        time_embed_dim=20,
        text_embed_dim=24,
        num_layers=3,
        sample_width=12,
        sample_height=8,
        sample_frames=9,
        max_text_seq_length=TEXT,
        use_rotary_positional_embeddings=False,
    )
    torch.manual_seed(7)
    model = CogVideoXTransformer3DModel(**settings | changes).eval()
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            centre = 1.0 if "norm" in name and tensor.ndim == 1 and "weight" in name else 0.0
            fan = tensor[0].numel() if tensor.ndim > 1 else 25
            tensor.copy_(centre + torch.randn(tensor.shape) * fan**-0.5)
    return model


def ours(reference):
    config = TransformerConfig.from_reference(reference.config)
    graph, like = abstract_params(Transformer, config)
    tensors = {name: tensor.numpy() for name, tensor in reference.state_dict().items()}
    params = convert(tensors, like, TRANSFORMER_RULES)
    return jax.jit(lambda *args: nnx.merge(graph, params)(*args))


def rotary(reference, grid):
    """The pipeline's own tables for a grid of frames, token rows and columns."""
    from diffusers.models.embeddings import get_3d_rotary_pos_embed
    from diffusers.pipelines.cogvideo.pipeline_cogvideox import get_resize_crop_region_for_grid

    config = reference.config
    if not config.use_rotary_positional_embeddings:
        return None
    base = config.sample_width // config.patch_size, config.sample_height // config.patch_size
    return get_3d_rotary_pos_embed(
        config.attention_head_dim,
        get_resize_crop_region_for_grid(grid[1:], *base),
        grid[1:],
        grid[0],
    )


def error(found, wanted):
    return np.abs(np.asarray(found) - wanted).max() / np.abs(wanted).max()


@pytest.mark.parametrize("rotated", [False, True], ids=["2b", "5b"])
@pytest.mark.parametrize("size", [(3, 8, 12), (2, 10, 8), (4, 4, 14)], ids=str)
def test_velocities_are_those_of_the_reference(rotated, size):
    reference = make_reference(use_rotary_positional_embeddings=rotated)
    random = np.random.default_rng(sum(size))
    latents = random.normal(size=(2, *size, 4)).astype(np.float32)
    text = random.normal(size=(2, TEXT, 24)).astype(np.float32)
    time = np.array([999, 19])
    with torch.no_grad():
        wanted = reference(
            torch.tensor(latents).permute(0, 1, 4, 2, 3),
            torch.tensor(text),
            torch.tensor(time),
            image_rotary_emb=rotary(reference, (size[0], size[1] // 2, size[2] // 2)),
        ).sample.permute(0, 1, 3, 4, 2)
    found = ours(reference)(latents, text, time)
    assert found.dtype == jnp.float32
    assert error(found, wanted.numpy()) <= TOLERANCE


@pytest.mark.parametrize(
    "changes", [dict(patch_size_t=2), dict(ofs_embed_dim=8), dict(out_channels=3)], ids=str
)
def test_settings_that_no_checkpoint_has_are_refused(changes):
    config = dict(make_reference().config) | changes
    with pytest.raises(ValueError, match=next(iter(changes))):
        TransformerConfig.from_reference(config)


def test_patches_are_put_back_where_they_were():
    latents = jax.random.normal(jax.random.key(0), (2, 3, 4, 6, 5))
    tokens = patchify(latents, 2)
    assert tokens.shape == (2, 18, 20)
    np.testing.assert_array_equal(unpatchify(tokens, (3, 2, 3), 2), latents)


def test_attention_in_blocks_is_attention(monkeypatch):
    from tts_jax.nn import attention

    monkeypatch.setattr(attention, "BLOCK", 4)
    q, k, v = jax.random.normal(jax.random.key(1), (3, 2, 11, 3, 8))
    mask = jax.random.bernoulli(jax.random.key(2), 0.7, (2, 11, 11))
    for seen in (None, mask, mask[:1, :1]):
        whole = attention.attend(q, k, v, seen)
        for name, longest in (("blocks", 99), ("auto", 10), ("auto", 11)):
            monkeypatch.setattr(attention, "LONG", longest)
            parts = attention.attend(q, k, v, seen, implementation=name)
            np.testing.assert_allclose(parts, whole, rtol=1e-5, atol=1e-6)
