"""At full size, without weights: every published tensor and every parameter has its counterpart."""

import json
import math

import numpy as np
import pytest

from converters.clip import split_fused
from converters.components import mistyped
from converters.core import check
from converters.models import MODELS
from converters.registry import COMPONENTS
from tts_jax.checkpoints import flatten

LISTED = [
    name
    for name, component in COMPONENTS.items()
    if component.prepare is dict
    and name not in ("clip_l_text", "clip_l_vision", "clip_vit_base_patch32", "open_clip_bigg_text")
]  # without those whose tensors are rearranged first


def shapes_of_text_tower(**sizes):
    """Names and shapes of a text tower of transformers, without its weights."""
    import torch
    import transformers

    with torch.device("meta"):
        tower = transformers.CLIPTextModelWithProjection(transformers.CLIPTextConfig(**sizes))
    return {name: list(tensor.shape) for name, tensor in tower.state_dict().items()}


def shapes_of_clip():
    """Names and shapes of the whole CLIP that transformers builds by default, ViT-B/32."""
    import torch
    import transformers

    with torch.device("meta"):
        model = transformers.CLIPModel(transformers.CLIPConfig())
    return {name: list(tensor.shape) for name, tensor in model.state_dict().items()}


def shapes_of_llama():
    """Names and shapes of Llama 3, without its weights."""
    import torch
    import transformers

    sizes = dict(vocab_size=128256, intermediate_size=14336, num_key_value_heads=8)
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes))
    return {name: list(tensor.shape) for name, tensor in model.state_dict().items()}


def shapes_of_wan_14b():
    """Names and shapes of the larger Wan's denoiser, the package's default, without its weights."""
    import diffusers
    import torch

    with torch.device("meta"):
        model = diffusers.WanTransformer3DModel()
    return {name: list(tensor.shape) for name, tensor in model.state_dict().items()}


def shapes_of_stable_diffusion_vae():
    """Names and shapes of Stable Diffusion's autoencoder, without its weights."""
    import diffusers
    import torch

    with torch.device("meta"):
        model = diffusers.AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
        )
    return {name: list(tensor.shape) for name, tensor in model.state_dict().items()}


@pytest.fixture
def manifest(golden):
    """`manifest(name)`: the published names and shapes of a component."""

    def read(name):
        if name == "clip_l_text":
            return shapes_of_text_tower(
                hidden_size=768, intermediate_size=3072, num_attention_heads=12, projection_dim=768
            )
        if name == "clip_vit_base_patch32":
            return shapes_of_clip()
        if name == "open_clip_bigg_text":
            return shapes_of_text_tower(
                hidden_size=1280,
                intermediate_size=5120,
                num_attention_heads=20,
                num_hidden_layers=32,
                projection_dim=1280,
            )
        if name == "language_model":
            return shapes_of_llama()
        if name == "wan2_1_t2v_14b_transformer":
            return shapes_of_wan_14b()
        if name == "stable_diffusion_vae":
            return shapes_of_stable_diffusion_vae()
        return json.loads((golden("manifests") / f"{name}.json").read_text())

    return read


@pytest.mark.parametrize(
    "name", [*LISTED, "clip_l_text", "clip_vit_base_patch32", "open_clip_bigg_text"]
)
def test_every_published_tensor_is_taken_once(manifest, name):
    component, shapes = COMPONENTS[name], manifest(name)
    config = component.published()
    _, like = component.abstract(config)
    steps = check(
        component.prepare(shapes), like, component.table(config), component.left_out(config)
    )
    taken = {step.source for step in steps}
    assert len(taken) == len(steps)
    ours = sum(math.prod(leaf.shape) for leaf in flatten(like).values())
    assert ours == sum(math.prod(shapes[name]) for name in taken)


@pytest.mark.parametrize("name", LISTED)
def test_a_tensor_more_or_less_or_turned_is_noticed(manifest, name):
    component, shapes = COMPONENTS[name], manifest(name)
    config = component.published()
    _, like = component.abstract(config)
    steps = check(shapes, like, component.table(config), component.left_out(config))
    names = [step.source for step in steps]
    turned = next(n for n in names if len(set(shapes[n])) > 1)
    damaged = {
        "missing": {n: s for n, s in shapes.items() if n != names[-1]},
        "added": shapes | {names[0] + "_ema": shapes[names[0]]},
        "turned": shapes | {turned: shapes[turned][::-1]},
    }
    for fault, tensors in damaged.items():
        with pytest.raises(ValueError, match=r"^[12] problem"):
            check(tensors, like, component.table(config), component.left_out(config))
            pytest.fail(f"{name}: {fault} went unnoticed")


def test_every_model_is_made_of_registered_components():
    for name, model in MODELS.items():
        assert model.parts, name
        for part in model.parts.values():
            assert part.component in COMPONENTS


@pytest.mark.parametrize("name", COMPONENTS)
def test_the_published_config_is_of_its_declared_types(name):
    assert not list(mistyped(COMPONENTS[name].published()))


def test_fused_projections_are_split_only_into_equal_parts():
    whole = {
        f"x.attn.in_proj_{kind}": np.arange(12.0).reshape(12, 1) for kind in ("bias", "weight")
    }
    parts = split_fused(whole)
    assert len(parts) == 6
    np.testing.assert_array_equal(parts["x.attn.k_proj.bias"], [[4], [5], [6], [7]])
    for rows in (np.zeros(()), np.zeros((10, 1))):
        odd = {"x.attn.in_proj_bias": rows}
        assert split_fused(odd) == odd
