"""Which models can be converted: their components, and what our `config.json` says of them."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from converters import clip, pyramid_flow
from converters.components import Component
from tts_jax.generators.pyramid_flow.mmdit import MMDiT, MMDiTConfig
from tts_jax.generators.pyramid_flow.transformer import Transformer, TransformerConfig
from tts_jax.generators.pyramid_flow.vae import CausalVideoVAE, VAEConfig
from tts_jax.language.clip_text import TextConfig
from tts_jax.verifiers.clip import CLIP, CLIPConfig
from tts_jax.verifiers.viclip import ViCLIPConfig
from tts_jax.vision.vit import VisionConfig


@dataclass(frozen=True, kw_only=True)
class Part:
    """A component in its place.

    Attributes:
      component: the name of one of `COMPONENTS`.
      folder: where it lies in a published directory; "" is the directory itself.
    """

    component: str
    folder: str = ""


@dataclass(frozen=True, kw_only=True)
class Model:
    """A published model: one conversion, one checkpoint of ours.

    Attributes:
      parts: by the names that our generator or verifier gives them.
      entries: our `config.json`, of the configs of the parts and of the parsed files of `settings`;
        a ValueError says what in them contradicts what.
      settings: names to JSON files of the published directory.
      copies: folders of the published directory that are copied as they are: tokenizers.
    """

    parts: Mapping[str, Part]
    entries: Callable[[Mapping[str, Any], Mapping[str, dict]], dict]
    settings: Mapping[str, str] = dataclasses.field(default_factory=dict)
    copies: tuple[str, ...] = ()

    def component(self, part: str) -> Component:
        """The component of a part."""
        return COMPONENTS[self.parts[part].component]


def _only(values: Iterable, allowed, name: str) -> None:
    odd = sorted({repr(value) for value in values if value != allowed})
    if odd:
        raise ValueError(f"{name} has {', '.join(odd)}; the port supports {allowed!r} only")


def _read_vae(fields: Mapping) -> VAEConfig:
    for name, block in (("encoder_down", "DownEncoder"), ("decoder_up", "UpDecoder")):
        name = f"{name}_block_types"
        _only(fields.get(name, ()), f"{block}BlockCausal3D", name)
    return VAEConfig.from_reference(fields)


def _read_flux(fields: Mapping) -> TransformerConfig:
    config = TransformerConfig.from_reference(fields)
    if sum(config.rope_axes) != config.head_size:
        raise ValueError(
            f"axes_dims_rope {list(config.rope_axes)} do not sum to attention_head_dim "
            f"{config.head_size}"
        )
    return config


def _read_clip(fields: Mapping) -> CLIPConfig:
    text, vision = fields["text_config"], fields["vision_config"]
    projections = {fields["projection_dim"], text.get("projection_dim", fields["projection_dim"])}
    projections.add(vision.get("projection_dim", fields["projection_dim"]))
    if len(projections) > 1:
        raise ValueError(f"projection_dim has several values: {sorted(projections)}")
    return CLIPConfig(
        text=TextConfig(
            vocabulary=text["vocab_size"],
            length=text["max_position_embeddings"],
            eos_id=None if text["eos_token_id"] == 2 else text["eos_token_id"],
            **_tower(text),
            projection=fields["projection_dim"],
        ),
        vision=VisionConfig(
            size=vision["image_size"],
            patch=vision["patch_size"],
            **_tower(vision),
            projection=fields["projection_dim"],
        ),
    )


def _tower(fields: Mapping) -> dict:
    return {
        "width": fields["hidden_size"],
        "heads": fields["num_attention_heads"],
        "layers": fields["num_hidden_layers"],
        "mlp": fields["intermediate_size"],
        "activation": fields["hidden_act"],
        "epsilon": fields.get("layer_norm_eps", 1e-5),
    }


COMPONENTS = {
    "pyramid_flow_vae": Component(
        build=CausalVideoVAE,
        published=VAEConfig.published,
        read=_read_vae,
        rules=pyramid_flow.VAE_RULES,
        fixed={"encoder_type": "causal_vae_conv", "decoder_type": "causal_vae_conv"},
        inert=frozenset(
            {
                "encoder_block_dropout",
                "decoder_block_dropout",
                "downsample_scale",
                "sample_size",
                "scaling_factor",  # the pipeline has factors of its own
            }
        ),
    ),
    "pyramid_flow_flux": Component(
        build=Transformer,
        published=TransformerConfig.flux,
        read=_read_flux,
        rules=pyramid_flow.FLUX_RULES,
        fixed={"patch_size": 1, "use_temporal_causal": True},
        inert=frozenset({"interp_condition_pos"}),  # this variant always interpolates
    ),
    "pyramid_flow_mmdit": Component(
        build=MMDiT,
        published=MMDiTConfig.published,
        read=MMDiTConfig.from_reference,
        rules=lambda config: pyramid_flow.mmdit_rules(config.blocks),
        inert=frozenset({"max_num_frames"}),
    ),
    "clip_vit_large_patch14": Component(
        build=CLIP,
        published=CLIPConfig.clip_vit_large_patch14,
        read=_read_clip,
        rules=clip.CLIP_RULES,
        ignored=clip.CLIP_IGNORED,
        fixed={"vision_config.num_channels": 3},
        inert=frozenset(
            {"logit_scale_init_value", "text_config_dict", "vision_config_dict", "laion_mlp_dims"}
        ),
    ),
    "viclip": Component(
        build=CLIP,
        published=ViCLIPConfig.viclip_l14,
        read=None,
        rules=clip.VICLIP_RULES,
        prepare=clip.split_fused,
    ),
}


def _of(kind: str, name: str, part: str, component: str) -> Model:
    """One component by itself: a part of a generator, or a verifier."""

    def entries(configs: Mapping[str, Any], settings: Mapping[str, dict]) -> dict:
        config = dataclasses.asdict(configs[part])
        if kind == "verifiers":
            return {kind: {name: config}}
        return {kind: {"name": name, part: config}}

    return Model(parts={part: Part(component=component)}, entries=entries)


MODELS = {
    "pyramid_flow_vae": _of("generator", "pyramid_flow", "vae", "pyramid_flow_vae"),
    "pyramid_flow_flux": _of("generator", "pyramid_flow", "transformer", "pyramid_flow_flux"),
    "pyramid_flow_mmdit": _of("generator", "pyramid_flow", "transformer", "pyramid_flow_mmdit"),
    "clip_vit_large_patch14": _of("verifiers", "clip", "clip", "clip_vit_large_patch14"),
    "viclip": _of("verifiers", "viclip", "viclip", "viclip"),
}
