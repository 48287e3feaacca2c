"""What published weights can be converted: networks, how they are read, and their key tables."""

from collections.abc import Callable, Iterable, Mapping
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
from converters.components import Component, names
from converters.core import Rules
from converters.decoder import IGNORED, TIED, decoder_rules
from tts_jax.generators.cogvideox import transformer as cogvideox_transformer
from tts_jax.generators.cogvideox import vae as cogvideox_vae
from tts_jax.generators.latte import transformer as latte_transformer
from tts_jax.generators.latte import vae as latte_vae
from tts_jax.generators.nova import transformer as nova_transformer
from tts_jax.generators.nova import vae as nova_vae
from tts_jax.generators.open_sora import transformer as stdit3
from tts_jax.generators.open_sora.vae import SPATIAL_SCALE, OpenSoraVAE, OpenSoraVAEConfig
from tts_jax.generators.pyramid_flow.mmdit import MMDiT, MMDiTConfig
from tts_jax.generators.pyramid_flow.transformer import Transformer, TransformerConfig
from tts_jax.generators.pyramid_flow.vae import CausalVideoVAE, VAEConfig
from tts_jax.generators.wan import transformer as wan_denoiser
from tts_jax.generators.wan import vae as wan_vae
from tts_jax.language.chat import PART as LANGUAGE_MODEL
from tts_jax.language.chat import ChatConfig
from tts_jax.language.chat import build as build_language_model
from tts_jax.language.clip_text import TextConfig, TextTower
from tts_jax.language.phi import PhiConfig, PhiEncoder
from tts_jax.language.t5 import T5Config, T5Encoder
from tts_jax.verifiers.aesthetic import Head, HeadConfig
from tts_jax.verifiers.clip import CLIP, CLIPConfig
from tts_jax.verifiers.image_selector import ImageSelector, ImageSelectorConfig
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
        inert=names("projection_dim"),  # of a tower without a projection
    )


def _t5(published: Callable[[], T5Config], rules: Rules) -> Component:
    return Component(
        build=T5Encoder,
        published=published,
        read=T5Config.from_reference,
        rules=rules,
        ignored=t5.IGNORED,
        fixed={"dense_act_fn": "gelu_new", "is_gated_act": True},
        inert=names(
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
        inert=names("max_text_seq_length sample_frames temporal_compression_ratio"),
    )


def _read_wan(fields: Mapping) -> wan_denoiser.TransformerConfig:
    """Of Wan's own `config.json`, or of the one in the layout of diffusers."""
    config = wan_denoiser.TransformerConfig
    published = "num_attention_heads" in fields
    return config.from_reference(fields) if published else config.from_original(fields)


def _wan(published: Callable[[], Any], rules: Rules = wan_transformer.RULES) -> Component:
    return Component(
        build=wan_denoiser.Transformer,
        published=published,
        read=_read_wan,
        rules=rules,
        inert=names("text_len"),
    )


_CLIP = names("logit_scale_init_value text_config_dict vision_config_dict laion_mlp_dims")
# Fields of language models that change nothing, or nothing that the port does not read elsewhere.
_LANGUAGE = names(
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
        inert=_LANGUAGE | names(inert),
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
        inert=names(
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
        inert=names("interp_condition_pos"),  # this variant always interpolates
    ),
    "pyramid_flow_mmdit": Component(
        build=MMDiT,
        published=MMDiTConfig.published,
        read=MMDiTConfig.from_reference,
        rules=lambda config: pyramid_flow.mmdit_rules(config.blocks),
        inert=names("max_num_frames"),
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
        inert=names("force_upcast sample_size"),
    ),
    "nova_d48w1024_osp480": Component(
        build=nova_transformer.Transformer,
        published=nova_transformer.TransformerConfig.d48w1024_osp480,
        read=nova_transformer.TransformerConfig.from_reference,
        rules=nova.transformer_rules,
        settle=nova.settle_mixer,
        fixed={"derived.layer_norm_eps": 1e-5, "derived.adaln_eps": 1e-6},
        inert=names(
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
        inert=names("sample_size force_upcast tiling"),
    ),
    "nova_text_encoder_phi2": Component(
        build=PhiEncoder,
        published=PhiConfig.phi_2,
        read=PhiConfig.from_reference,
        rules=nova.PHI_RULES,
        ignored=nova.PHI_IGNORED,
        inert=names("max_position_embeddings embd_pdrop resid_pdrop eos_token_id auto_map"),
    ),
    "wan2_1_t2v_1_3b_transformer": _wan(wan_denoiser.TransformerConfig.wan_1_3b),
    "wan2_1_t2v_14b_transformer": _wan(wan_denoiser.TransformerConfig.wan_14b),
    "wan2_1_t2v_1_3b_original": _wan(
        wan_denoiser.TransformerConfig.wan_1_3b, wan_transformer.ORIGINAL_RULES
    ),
    "wan2_1_t2v_14b_original": _wan(
        wan_denoiser.TransformerConfig.wan_14b, wan_transformer.ORIGINAL_RULES
    ),
    "causal_wan_1_3b": Component(
        build=wan_denoiser.Transformer,
        published=wan_denoiser.TransformerConfig.wan_1_3b,
        read=_read_wan,
        rules=wan_transformer.ORIGINAL_RULES,
        ignored=wan_transformer.ORIGINAL_IGNORED,
        inert=names("text_len"),
    ),
    "wan_vae": Component(
        build=wan_vae.CausalVideoVAE,
        published=wan_vae.VAEConfig.published,
        read=wan_vae.VAEConfig.from_reference,
        rules=wan.VAE_RULES,
    ),
    "wan_vae_original": Component(
        build=wan_vae.CausalVideoVAE,
        published=wan_vae.VAEConfig.published,
        read=wan_vae.VAEConfig.from_reference,
        rules=wan.original_vae_rules,
    ),
    "open_sora_vae": Component(
        build=OpenSoraVAE,
        published=OpenSoraVAEConfig.published,
        read=OpenSoraVAEConfig.from_reference,
        rules=open_sora_vae.VAE_RULES,
        fixed={"spatial_scaling": SPATIAL_SCALE},
        # the weights hold shift and scale; where the halves once came from says nothing of them
        inert=names(
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
        inert=names(
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
        inert=names(
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
        inert=names("force_upcast sample_size"),
    ),
    "t5_v1_1_xxl_encoder": _t5(T5Config.t5_v1_1_xxl, t5.T5_RULES),
    "umt5_xxl_encoder": _t5(T5Config.umt5_xxl, t5.UMT5_RULES),
    "umt5_xxl_encoder_original": _t5(T5Config.umt5_xxl, t5.WAN_UMT5_RULES),
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
