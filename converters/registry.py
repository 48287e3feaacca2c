"""Which models can be converted: their components, and what our `config.json` says of them."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from converters import (
    aesthetic,
    clip,
    cogvideox,
    flow,
    image_autoencoder,
    image_selector,
    latte,
    musiq,
    nova,
    open_sora_transformer,
    open_sora_vae,
    plain_vit,
    pyramid_flow,
    t5,
    videollama3,
    videoreward,
    videoscore,
    visionreward,
    wan,
    wan_transformer,
)
from converters.components import Component, Found
from converters.core import Rules
from converters.decoder import IGNORED, TIED, decoder_rules
from tts_jax.generators.causal_wan.generator import CausalWanConfig
from tts_jax.generators.causal_wan.sampler import SamplerConfig as CausalWanSampler
from tts_jax.generators.cogvideox import transformer as cogvideox_transformer
from tts_jax.generators.cogvideox import vae as cogvideox_vae
from tts_jax.generators.cogvideox.generator import CogVideoXConfig
from tts_jax.generators.cogvideox.generator import SamplerConfig as CogVideoXSampler
from tts_jax.generators.latte import transformer as latte_transformer
from tts_jax.generators.latte import vae as latte_vae
from tts_jax.generators.latte.generator import LatteConfig
from tts_jax.generators.latte.generator import SamplerConfig as LatteSampler
from tts_jax.generators.nova import transformer as nova_transformer
from tts_jax.generators.nova import vae as nova_vae
from tts_jax.generators.nova.generator import NovaConfig
from tts_jax.generators.nova.sampler import SamplerConfig as NovaSampler
from tts_jax.generators.open_sora import transformer as stdit3
from tts_jax.generators.open_sora.parts import TOKENIZER as OPEN_SORA_TOKENIZER
from tts_jax.generators.open_sora.parts import OpenSoraConfig
from tts_jax.generators.open_sora.sampler import SamplerConfig as OpenSoraSampler
from tts_jax.generators.open_sora.vae import SPATIAL_SCALE, OpenSoraVAE, OpenSoraVAEConfig
from tts_jax.generators.pyramid_flow.mmdit import MMDiT, MMDiTConfig
from tts_jax.generators.pyramid_flow.sampler_config import SamplerConfig
from tts_jax.generators.pyramid_flow.transformer import Transformer, TransformerConfig
from tts_jax.generators.pyramid_flow.vae import CausalVideoVAE, LatentFactors, VAEConfig
from tts_jax.generators.wan import transformer as wan_denoiser
from tts_jax.generators.wan import vae as wan_vae
from tts_jax.generators.wan.generator import SamplerConfig as WanSampler
from tts_jax.generators.wan.generator import WanConfig
from tts_jax.language.chat import PART as LANGUAGE_MODEL
from tts_jax.language.chat import ChatConfig
from tts_jax.language.chat import build as build_language_model
from tts_jax.language.clip_text import TextConfig, TextTower
from tts_jax.language.phi import PhiConfig, PhiEncoder
from tts_jax.language.t5 import T5Config, T5Encoder
from tts_jax.verifiers.aesthetic import Head, HeadConfig
from tts_jax.verifiers.clip import CLIP, CLIPConfig
from tts_jax.verifiers.image_selector import ImageSelector, ImageSelectorConfig
from tts_jax.verifiers.judges import PUBLISHED_CHECKLIST, PUBLISHED_STAGES, TEXTS
from tts_jax.verifiers.viclip import ViCLIPConfig
from tts_jax.verifiers.videollama3 import VideoLLaMA3, VideoLLaMA3Config
from tts_jax.verifiers.videoreward import VideoReward, VideoRewardConfig
from tts_jax.verifiers.videoscore import VideoScore, VideoScoreConfig
from tts_jax.verifiers.visionreward import VisionReward, VisionRewardConfig
from tts_jax.vision.amt import AMT, AMTConfig
from tts_jax.vision.dino import DINO, DINOConfig
from tts_jax.vision.musiq import MUSIQ, MUSIQConfig
from tts_jax.vision.raft import RAFT, RAFTConfig
from tts_jax.vision.umt import UMT, UMTConfig
from tts_jax.vision.vit import VisionConfig, VisionTower


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
      inert: fields of these files that change nothing, beside those of every file.
      copies: folders of the published directory whose tokenizers are copied; "" is itself.
      extras: other files of the published directory that are copied where they are.
      gather: of the published file or directory and a base model's, what lies in both; None of one
        that needs no base.
    """

    parts: Mapping[str, Part]
    entries: Callable[[Mapping[str, Any], Mapping[str, Mapping]], dict]
    settings: Mapping[str, str] = dataclasses.field(default_factory=dict)
    inert: frozenset[str] = frozenset()
    copies: tuple[str, ...] = ()
    extras: tuple[str, ...] = ()
    gather: Callable[[Path, Path | None], Found | None] | None = None

    def component(self, part: str) -> Component:
        """The component of a part."""
        return COMPONENTS[self.parts[part].component]


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _only(values: Iterable, allowed, name: str) -> None:
    odd = sorted({repr(value) for value in values if value != allowed})
    if odd:
        raise ValueError(f"{name} has {', '.join(odd)}; the port supports {allowed!r} only")


def _with_blocks(read: Callable[[Mapping], Any], **types: str) -> Callable[[Mapping], Any]:
    """Reads a VAE's config whose blocks, by field, are all of the one type that is ported."""

    def checked(fields: Mapping):
        for name, block in types.items():
            _only(fields.get(f"{name}_block_types", ()), block, f"{name}_block_types")
        return read(fields)

    return checked


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


def _aesthetic(head: str) -> Model:
    """CLIP's directory with the file of a head in a folder of its own."""

    def entries(configs: Mapping[str, Any], settings: Mapping[str, Mapping]) -> dict:
        _agree("size of the embedding", configs["head"].inputs, configs["vision"].projection)
        fields = {part: dataclasses.asdict(config) for part, config in configs.items()}
        return {"verifiers": {"aesthetic": fields}}

    return Model(
        parts={
            "vision": Part(component="clip_l_vision"),
            "head": Part(component=f"laion_aesthetic_{head}", folder="aesthetic"),
        },
        entries=entries,
    )


def _aesthetic_head(published: Callable[[], HeadConfig]) -> Component:
    return Component(
        build=Head,
        published=published,
        read=None,
        rules=aesthetic.HEAD_RULES,
        prepare=aesthetic.prepare,
    )


def _clip_text(published: TextConfig) -> Component:
    return Component(
        build=TextTower,
        published=lambda: published,
        read=TextConfig.from_reference,
        rules=clip.CLIP_TEXT_RULES,
        ignored=clip.CLIP_TEXT_IGNORED,
        inert=_names("projection_dim"),  # of a tower without a projection
    )


def _t5(published: Callable[[], T5Config], rules: Rules) -> Component:
    return Component(
        build=T5Encoder,
        published=published,
        read=T5Config.from_reference,
        rules=rules,
        ignored=t5.IGNORED,
        fixed={"dense_act_fn": "gelu_new", "is_gated_act": True},
        inert=_names(
            "eos_token_id n_positions num_decoder_layers output_past scalable_attention "
            "scale_decoder_outputs"
        ),
    )


def _cogvideox(published: Callable[[], Any]) -> Component:
    return Component(
        build=cogvideox_transformer.Transformer,
        published=published,
        read=cogvideox_transformer.TransformerConfig.from_reference,
        rules=cogvideox.TRANSFORMER_RULES,
        fixed={"use_rotary_positional_embeddings": published().rotary},
        inert=_names("max_text_seq_length sample_frames temporal_compression_ratio"),
    )


def _read_causal_wan(fields: Mapping) -> wan_denoiser.TransformerConfig:
    """Of Wan's own `config.json`, or of the one in the layout of diffusers."""
    config = wan_denoiser.TransformerConfig
    published = "num_attention_heads" in fields
    return config.from_reference(fields) if published else config.from_original(fields)


def _wan(published: Callable[[], Any]) -> Component:
    return Component(
        build=wan_denoiser.Transformer,
        published=published,
        read=wan_denoiser.TransformerConfig.from_reference,
        rules=wan_transformer.RULES,
    )


_CLIP = _names("logit_scale_init_value text_config_dict vision_config_dict laion_mlp_dims")
# Fields of language models that change nothing, or nothing that the port does not read elsewhere.
_LANGUAGE = _names(
    """
    max_position_embeddings max_window_layers sliding_window use_sliding_window layer_types
    rope_scaling pad_token_id bos_token_id eos_token_id tokenizer_model_max_length
    tokenizer_padding_side tie_word_embeddings yes_token_id no_token_id vocab_size auto_map
    _attn_implementation _attn_implementation_autoset
    """
)
_LLAVA = """
image_aspect_ratio image_crop_resolution image_grid_pinpoints image_split_resolution
image_token_index image_tokens mm_hidden_size mm_newline_position mm_patch_merge_type
mm_projector_lr mm_resampler_type mm_spatial_pool_mode mm_spatial_pool_stride mm_tunable_parts
mm_use_im_patch_token mm_use_im_start_end mm_vision_select_feature mm_vision_tower
mm_vision_tower_lr pos_skipping_range tokenizer_model_max_length tokenizer_padding_side
use_mm_proj use_pos_skipping vision_tower_pretrained add_faster_video add_time_instruction
delay_load faster_token_stride force_sample mlp_bias note
"""
_QWEN2_VL = """
base_vocab_size tokenizer_length special_token_ids video_token_id image_token_id
vision_start_token_id vision_end_token_id vision_token_id lora reward_token output_dim
spatial_patch_size in_chans in_channels
"""


def _judge(
    build: Callable, published: Callable[[], Any], table: ModuleType, inert: str, **more
) -> Component:
    """A vision-language judge, whose key table is a module of its own."""
    return Component(
        build=build,
        published=published,
        read=type(published()).from_reference,
        rules=table.RULES,
        ignored=table.IGNORED,
        inert=_LANGUAGE | _names(inert),
        **more,
    )


def _clip(published: Callable[[], CLIPConfig]) -> Component:
    """CLIP under the names of the transformers package."""
    return Component(
        build=CLIP,
        published=published,
        read=_read_clip,
        rules=clip.CLIP_RULES,
        ignored=clip.CLIP_IGNORED,
        fixed={"vision_config.num_channels": 3},
        inert=_CLIP,
    )


def _openai_clip(published: Callable[[], CLIPConfig]) -> Component:
    """CLIP under the names of its first publication."""
    return Component(
        build=CLIP,
        published=published,
        read=None,
        rules=clip.OPENAI_CLIP_RULES,
        ignored=clip.OPENAI_CLIP_IGNORED,
        prepare=clip.split_fused,
    )


COMPONENTS = {
    "pyramid_flow_vae": Component(
        build=CausalVideoVAE,
        published=VAEConfig.published,
        read=_with_blocks(
            VAEConfig.from_reference,
            encoder_down="DownEncoderBlockCausal3D",
            decoder_up="UpDecoderBlockCausal3D",
        ),
        rules=pyramid_flow.VAE_RULES,
        fixed={"encoder_type": "causal_vae_conv", "decoder_type": "causal_vae_conv"},
        # the pipeline has scaling factors of its own
        inert=_names(
            "encoder_block_dropout decoder_block_dropout downsample_scale sample_size "
            "scaling_factor"
        ),
    ),
    "pyramid_flow_flux": Component(
        build=Transformer,
        published=TransformerConfig.flux,
        read=_read_flux,
        rules=pyramid_flow.FLUX_RULES,
        fixed={"patch_size": 1, "use_temporal_causal": True},
        inert=_names("interp_condition_pos"),  # this variant always interpolates
    ),
    "pyramid_flow_mmdit": Component(
        build=MMDiT,
        published=MMDiTConfig.published,
        read=MMDiTConfig.from_reference,
        rules=lambda config: pyramid_flow.mmdit_rules(config.blocks),
        inert=_names("max_num_frames"),
    ),
    "cogvideox_2b_transformer": _cogvideox(cogvideox_transformer.TransformerConfig.cogvideox_2b),
    "cogvideox_5b_transformer": _cogvideox(cogvideox_transformer.TransformerConfig.cogvideox_5b),
    "cogvideox_vae": Component(
        build=cogvideox_vae.CausalVideoVAE,
        published=cogvideox_vae.VAEConfig.cogvideox_5b,
        read=_with_blocks(
            cogvideox_vae.VAEConfig.from_reference,
            down="CogVideoXDownBlock3D",
            up="CogVideoXUpBlock3D",
        ),
        rules=cogvideox.VAE_RULES,
        inert=_names("force_upcast sample_size"),
    ),
    "nova_d48w1024_osp480": Component(
        build=nova_transformer.Transformer,
        published=nova_transformer.TransformerConfig.d48w1024_osp480,
        read=nova_transformer.TransformerConfig.from_reference,
        rules=nova.transformer_rules,
        settle=nova.settle_mixer,
        fixed={"derived.layer_norm_eps": 1e-5, "derived.adaln_eps": 1e-6},
        inert=_names(
            "latent_size image_patch_size video_patch_size num_image_tokens "
            "num_video_tokens_per_frame image_encoder_first_half_blocks arch sample_scheduler "
            "loss_repeat label_dim num_train_timesteps"
        ),
    ),
    "nova_vae": Component(
        build=nova_vae.CausalVideoVAE,
        published=nova_vae.VAEConfig.published,
        read=nova_vae.VAEConfig.from_reference,
        rules=nova.VAE_RULES,
        fixed={
            "tiling.sample_window": nova_vae.ENCODER_WINDOW,
            "tiling.sample_overlap": nova_vae.SHARED,
            "tiling.latent_window": nova_vae.DECODER_WINDOW,
            "tiling.latent_overlap": nova_vae.SHARED,
        },
        inert=_names("sample_size force_upcast tiling"),
    ),
    "nova_text_encoder_phi2": Component(
        build=PhiEncoder,
        published=PhiConfig.phi_2,
        read=PhiConfig.from_reference,
        rules=nova.PHI_RULES,
        ignored=nova.PHI_IGNORED,
        inert=_names("max_position_embeddings embd_pdrop resid_pdrop eos_token_id auto_map"),
    ),
    "wan2_1_t2v_1_3b_transformer": _wan(wan_denoiser.TransformerConfig.wan_1_3b),
    "wan2_1_t2v_14b_transformer": _wan(wan_denoiser.TransformerConfig.wan_14b),
    "causal_wan_1_3b": Component(
        build=wan_denoiser.Transformer,
        published=wan_denoiser.TransformerConfig.wan_1_3b,
        read=_read_causal_wan,
        rules=wan_transformer.ORIGINAL_RULES,
        ignored=wan_transformer.ORIGINAL_IGNORED,
        inert=_names("text_len"),
    ),
    "wan_vae": Component(
        build=wan_vae.CausalVideoVAE,
        published=wan_vae.VAEConfig.published,
        read=wan_vae.VAEConfig.from_reference,
        rules=wan.VAE_RULES,
    ),
    "open_sora_vae": Component(
        build=OpenSoraVAE,
        published=OpenSoraVAEConfig.published,
        read=OpenSoraVAEConfig.from_reference,
        rules=open_sora_vae.VAE_RULES,
        fixed={"spatial_scaling": SPATIAL_SCALE},
        # the weights hold shift and scale; where the halves once came from says nothing of them
        inert=_names(
            "shift scale cal_loss freeze_vae_2d from_pretrained subfolder local_files_only "
            "micro_batch_size sample_size latent_size_cases"
        ),
    ),
    "open_sora_stdit3_xl2": Component(
        build=stdit3.Transformer,
        published=stdit3.TransformerConfig.stdit3_xl_2,
        read=stdit3.TransformerConfig.from_reference,
        rules=open_sora_transformer.RULES,
        ignored=open_sora_transformer.IGNORED,
        inert=_names(
            "class_dropout_prob drop_path input_size enable_flash_attn enable_layernorm_kernel "
            "enable_sequence_parallelism only_train_temporal freeze_y_embedder auto_map"
        ),
    ),
    "latte_1_transformer": Component(
        build=latte_transformer.Transformer,
        published=latte_transformer.TransformerConfig.latte_1,
        read=latte_transformer.TransformerConfig.from_reference,
        rules=latte.RULES,
        # fields of an earlier class of the package, which published files may still have
        fixed={
            "attention_type": "default",
            "double_self_attention": False,
            "only_cross_attention": False,
            "num_vector_embeds": None,
        },
        inert=_names(
            "dropout norm_num_groups num_embeds_ada_norm upcast_attention use_linear_projection"
        ),
    ),
    "stable_diffusion_vae": Component(
        build=latte_vae.FrameVAE,
        published=latte_vae.VAEConfig.stable_diffusion,
        read=_with_blocks(
            latte_vae.VAEConfig.from_reference, down="DownEncoderBlock2D", up="UpDecoderBlock2D"
        ),
        rules=image_autoencoder.image_rules(),
        inert=_names("force_upcast sample_size"),
    ),
    "t5_v1_1_xxl_encoder": _t5(T5Config.t5_v1_1_xxl, t5.T5_RULES),
    "umt5_xxl_encoder": _t5(T5Config.umt5_xxl, t5.UMT5_RULES),
    "clip_l_text": _clip_text(TextConfig.clip_vit_large_patch14()),
    "open_clip_bigg_text": _clip_text(TextConfig.open_clip_bigg()),
    LANGUAGE_MODEL: Component(
        build=build_language_model,
        published=ChatConfig.llama3_8b,
        read=ChatConfig.from_reference,
        rules=lambda config: decoder_rules(head=config.decoder.head == "own"),
        ignored=lambda config: TIED if config.decoder.head == "tied" else IGNORED,
        inert=_LANGUAGE | {"pretraining_tp"},
    ),
    "clip_vit_base_patch32": _clip(CLIPConfig.clip_vit_base_patch32),
    "clip_vit_large_patch14": _clip(CLIPConfig.clip_vit_large_patch14),
    "openai_clip_vit_b32": _openai_clip(CLIPConfig.clip_vit_base_patch32),
    "openai_clip_vit_l14": _openai_clip(CLIPConfig.clip_vit_large_patch14),
    "clip_l_vision": Component(
        build=VisionTower,
        published=VisionConfig.clip_vit_large_patch14,
        read=lambda fields: _read_clip(fields).vision,
        rules=aesthetic.TOWER_RULES,
        ignored=aesthetic.TOWER_IGNORED,
        fixed={"vision_config.num_channels": 3},
        inert=_CLIP,
    ),
    "laion_aesthetic_linear": _aesthetic_head(HeadConfig.linear),
    "laion_aesthetic_mlp": _aesthetic_head(HeadConfig.mlp),
    "viclip": Component(
        build=CLIP,
        published=ViCLIPConfig.viclip_l14,
        read=None,
        rules=clip.VICLIP_RULES,
        prepare=clip.split_fused,
    ),
    "dino_vitb16": Component(
        build=DINO,
        published=DINOConfig.dino_vitb16,
        read=None,
        rules=plain_vit.DINO_RULES,
        prepare=plain_vit.split_fused,
    ),
    "musiq_spaq": Component(
        build=MUSIQ,
        published=MUSIQConfig.musiq_spaq,
        read=None,
        rules=musiq.RULES,
        prepare=flow.without_wrapper,
    ),
    "umt_l16_k400": Component(
        build=UMT,
        published=UMTConfig.umt_l16_k400,
        read=None,
        rules=plain_vit.UMT_RULES,
        prepare=plain_vit.prepare_umt,
    ),
    "amt_s": Component(
        build=AMT,
        published=AMTConfig.amt_s,
        read=None,
        rules=flow.AMT_RULES,
        prepare=flow.without_wrapper,
    ),
    "raft_things": Component(
        build=RAFT,
        published=RAFTConfig.raft_things,
        read=None,
        rules=flow.RAFT_RULES,
        ignored=flow.RAFT_IGNORED,
        prepare=flow.without_wrapper,
    ),
    "videoscore": _judge(
        VideoScore,
        VideoScoreConfig.videoscore,
        videoscore,
        # the judge takes the language model's epsilon in the perceiver too
        "fake_image_token_id image_token_id num_channels qk_layer_norms_perceiver rms_norm_eps",
    ),
    "videollama3_7b": _judge(
        VideoLLaMA3,
        VideoLLaMA3Config.videollama3_7b,
        videollama3,
        "image_token_index vision_encoder num_channels mm_hidden_size",
    ),
    "llava_onevision_qwen2_7b": _judge(
        ImageSelector, ImageSelectorConfig.llava_onevision_7b, image_selector, _LLAVA
    ),
    "videoreward_merged": _judge(
        VideoReward,
        VideoRewardConfig.videoreward,
        videoreward,
        _QWEN2_VL,
        prepare=videoreward.prepare,
    ),
    "visionreward_video": _judge(
        VisionReward,
        VisionRewardConfig.visionreward_video,
        visionreward,
        "auto_map template_version dropout_prob",
        prepare=visionreward.prepare,
    ),
}


def _alone(part: str, component: str, place: Sequence[str], **more) -> Model:
    """One network by itself, described at a place of our `config.json`."""

    def entries(configs: Mapping[str, Any], settings: Mapping[str, Mapping]) -> dict:
        found = dataclasses.asdict(configs[part])
        for name in reversed(place):
            found = {name: found}
        return found

    return Model(parts={part: Part(component=component)}, entries=entries, **more)


def _verifier(name: str, component: str, *extras: str, gather=None) -> Model:
    """A verifier, which needs its tokenizer beside its weights."""
    place = "verifiers", name
    return _alone(name, component, place, copies=("",), extras=extras, gather=gather)


def _pyramid_flow(variant: str, size: str) -> Model:
    """A published Pyramid-Flow directory, of which one denoiser is taken."""
    texts = {"clip": "clip_l_text", "t5": "t5_v1_1_xxl_encoder"}
    if variant == "mmdit":
        texts = {"clip": "clip_l_text", "clip_g": "open_clip_bigg_text", "t5": texts["t5"]}
    endings = ["" if i == 0 else f"_{i + 1}" for i in range(len(texts))]
    parts = {
        "transformer": Part(
            component=f"pyramid_flow_{variant}", folder=f"diffusion_transformer_{size}"
        ),
        "vae": Part(component="pyramid_flow_vae", folder="causal_video_vae"),
    }
    for ending, (part, component) in zip(endings, texts.items(), strict=True):
        parts[part] = Part(component=component, folder=f"text_encoder{ending}")

    def entries(configs: Mapping[str, Any], settings: Mapping[str, Mapping]) -> dict:
        transformer = configs["transformer"]
        pooled = sum(_pooled(configs[part]) for part in texts if part != "t5")
        _agree("latent channels", transformer.latent_channels, configs["vae"].latent_channels)
        _agree("width of the text states", transformer.text_width, configs["t5"].width)
        _agree("width of the pooled text", transformer.pooled_width, pooled)
        sampler = getattr(SamplerConfig, f"published_{size}")()
        sampler = dataclasses.replace(sampler, channels=transformer.latent_channels)
        fields = {
            "name": "pyramid_flow",
            **{part: dataclasses.asdict(config) for part, config in configs.items()},
            "latent_factors": dataclasses.asdict(getattr(LatentFactors, variant)()),
            "sampler": dataclasses.asdict(sampler),
        }
        return {"generator": fields}

    return Model(
        parts=parts, entries=entries, copies=tuple(f"tokenizer{ending}" for ending in endings)
    )


def _diffusers(name: str, build: Callable, sampler: Callable, parts: Mapping, inert: str) -> Model:
    """A published directory in the layout of diffusers.

    Args:
      name: of our generator.
      build, sampler: its config, and the reader of the part that is in the scheduler's file.
      parts: our parts to component and folder.
      inert: fields of the scheduler that change nothing.
    """

    def entries(configs: Mapping[str, Any], settings: Mapping[str, Mapping]) -> dict:
        config = build(**configs, sampler=sampler(settings["scheduler"]))
        return {"generator": {"name": name, **dataclasses.asdict(config)}}

    return Model(
        parts={part: Part(component=c, folder=folder) for part, (c, folder) in parts.items()},
        entries=entries,
        settings={"scheduler": "scheduler/scheduler_config.json"},
        inert=_names(f"clip_sample clip_sample_range sample_max_value {inert}"),
        copies=("tokenizer",),
    )


def _cogvideox_pipeline(size: str) -> Model:
    """A published CogVideoX directory."""
    parts = {
        "transformer": (f"cogvideox_{size}_transformer", "transformer"),
        "vae": ("cogvideox_vae", "vae"),
        "t5": ("t5_v1_1_xxl_encoder", "text_encoder"),
    }
    read = CogVideoXSampler.from_reference
    return _diffusers("cogvideox", CogVideoXConfig, read, parts, "steps_offset")


def _nova_pipeline() -> Model:
    """The published nova-d48w1024-osp480 directory."""
    parts = {
        "transformer": ("nova_d48w1024_osp480", "transformer"),
        "vae": ("nova_vae", "vae"),
        "phi": ("nova_text_encoder_phi2", "text_encoder"),
    }
    read = NovaSampler.from_reference
    return _diffusers("nova", NovaConfig, read, parts, "dynamic_thresholding_ratio")


def _wan_pipeline(size: str) -> Model:
    """A published Wan 2.1 directory in the layout of diffusers; videos are of the size's own."""
    parts = {
        "transformer": (f"wan2_1_t2v_{size}_transformer", "transformer"),
        "vae": ("wan_vae", "vae"),
        "t5": ("umt5_xxl_encoder", "text_encoder"),
    }

    def read(scheduler: Mapping) -> WanSampler:
        sampler, found = (
            getattr(WanSampler, f"wan2_1_{size}")(),
            WanSampler.from_reference(scheduler),
        )
        return dataclasses.replace(found, height=sampler.height, width=sampler.width)

    inert = (
        "beta_start beta_end beta_schedule trained_betas timestep_spacing steps_offset "
        "dynamic_thresholding_ratio rescale_betas_zero_snr sigma_min sigma_max time_shift_type"
    )
    return _diffusers("wan", WanConfig, read, parts, inert)


def _open_sora_pipeline() -> Model:
    """The three published directories of Open-Sora 1.2, side by side under their own names."""
    parts = {
        "transformer": Part(component="open_sora_stdit3_xl2", folder="OpenSora-STDiT-v3"),
        "vae": Part(component="open_sora_vae", folder="OpenSora-VAE-v1.2"),
        "t5": Part(component="t5_v1_1_xxl_encoder", folder=OPEN_SORA_TOKENIZER),
    }

    def entries(configs: Mapping[str, Any], settings: Mapping[str, Mapping]) -> dict:
        config = OpenSoraConfig(**configs, sampler=OpenSoraSampler())
        return {"generator": {"name": "open_sora", **dataclasses.asdict(config)}}

    return Model(parts=parts, entries=entries, copies=(OPEN_SORA_TOKENIZER,))


def _latte_pipeline() -> Model:
    """The published Latte-1 directory, with the autoencoder of single frames."""
    parts = {
        "transformer": ("latte_1_transformer", "transformer"),
        "vae": ("stable_diffusion_vae", "vae"),
        "t5": ("t5_v1_1_xxl_encoder", "text_encoder"),
    }
    read = LatteSampler.from_reference
    return _diffusers("latte", LatteConfig, read, parts, "dynamic_thresholding_ratio")


def _causal_wan_pipeline() -> Model:
    """A denoiser of Self-Forcing, and the VAE, text encoder and tokenizer of its base."""

    def entries(configs: Mapping[str, Any], settings: Mapping[str, Mapping]) -> dict:
        config = CausalWanConfig(**configs, sampler=CausalWanSampler())
        return {"generator": {"name": "causal_wan", **dataclasses.asdict(config)}}

    return Model(
        parts={
            "transformer": Part(component="causal_wan_1_3b", folder="transformer"),
            "vae": Part(component="wan_vae", folder="vae"),
            "t5": Part(component="umt5_xxl_encoder", folder="text_encoder"),
        },
        entries=entries,
        copies=("tokenizer",),
        gather=wan_transformer.gather,
    )


def _pooled(config: TextConfig) -> int:
    return config.width if config.projection is None else config.projection


def _agree(what: str, wanted: int, found: int) -> None:
    if wanted != found:
        raise ValueError(f"{what}: the denoiser wants {wanted}, its inputs have {found}")


MODELS = {
    **{
        f"pyramid_flow_{variant}_{size}": _pyramid_flow(variant, size)
        for variant in ("flux", "mmdit")
        for size in ("384p", "768p")
    },
    **{f"cogvideox_{size}": _cogvideox_pipeline(size) for size in ("2b", "5b")},
    "nova": _nova_pipeline(),
    **{f"wan2_1_{size}": _wan_pipeline(size) for size in ("1_3b", "14b")},
    "open_sora_1_2": _open_sora_pipeline(),
    "latte_1": _latte_pipeline(),
    **{name: _alone(name, name, ("component", name)) for name in COMPONENTS},
    "causal_wan_1_3b": _causal_wan_pipeline(),
    LANGUAGE_MODEL: _alone(LANGUAGE_MODEL, LANGUAGE_MODEL, (LANGUAGE_MODEL,), copies=("",)),
    **{
        name: _verifier("clip", name)
        for name in (
            "clip_vit_base_patch32",
            "clip_vit_large_patch14",
            "openai_clip_vit_b32",
            "openai_clip_vit_l14",
        )
    },
    "viclip": _verifier("viclip", "viclip"),
    **{f"aesthetic_{head}": _aesthetic(head) for head in ("linear", "mlp")},
    "videoscore": _verifier("videoscore", "videoscore", TEXTS),
    "videollama3": _verifier("videollama3", "videollama3_7b", TEXTS),
    "image_selector": _verifier("image_selector", "llava_onevision_qwen2_7b", TEXTS),
    "videoreward": _verifier("videoreward", "videoreward_merged", TEXTS, gather=videoreward.gather),
    "visionreward": _verifier(
        "visionreward", "visionreward_video", TEXTS, *PUBLISHED_CHECKLIST, *PUBLISHED_STAGES
    ),
}
