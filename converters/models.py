"""Which published models can be converted: their parts, and what our `config.json` says of them."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converters import videoreward, wan_original, wan_transformer
from converters.components import Component, Found, names
from converters.registry import COMPONENTS
from tts_jax.generators.causal_wan.generator import CausalWanConfig
from tts_jax.generators.causal_wan.sampler import SamplerConfig as CausalWanSampler
from tts_jax.generators.cogvideox.generator import CogVideoXConfig
from tts_jax.generators.cogvideox.generator import SamplerConfig as CogVideoXSampler
from tts_jax.generators.latte.generator import LatteConfig
from tts_jax.generators.latte.generator import SamplerConfig as LatteSampler
from tts_jax.generators.nova.generator import NovaConfig
from tts_jax.generators.nova.sampler import SamplerConfig as NovaSampler
from tts_jax.generators.open_sora.parts import TOKENIZER as OPEN_SORA_TOKENIZER
from tts_jax.generators.open_sora.parts import OpenSoraConfig
from tts_jax.generators.open_sora.sampler import SamplerConfig as OpenSoraSampler
from tts_jax.generators.pyramid_flow.sampler_config import SamplerConfig
from tts_jax.generators.pyramid_flow.vae import LatentFactors
from tts_jax.generators.wan.generator import SamplerConfig as WanSampler
from tts_jax.generators.wan.generator import WanConfig
from tts_jax.language.chat import PART as LANGUAGE_MODEL
from tts_jax.language.clip_text import TextConfig
from tts_jax.verifiers.judges import PUBLISHED_CHECKLIST, PUBLISHED_STAGES, TEXTS


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
      entries: our `config.json`, of the configs of the parts and of the parsed files of `settings`,
        none where the published layout has none; a ValueError says what in them contradicts what.
      settings: names to JSON files of the published directory.
      inert: fields of these files that change nothing, beside those of every file.
      copies: folders of the published directory whose tokenizers are copied; "" is itself.
      extras: other files of the published directory that are copied where they are.
      gather: of the published file or directory and a base model's, what lies in both; None of one
        in the usual layout that needs no base.
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


def _diffusers(
    name: str, build: Callable, sampler: Callable, parts: Mapping, inert: str, gather=None
) -> Model:
    """A published directory in the layout of diffusers.

    Args:
      name: of our generator.
      build, sampler: its config, and the reader of the part that is in the scheduler's file.
      parts: our parts to component and folder.
      inert: fields of the scheduler that change nothing.
      gather: see `Model`; what it finds may lack the scheduler's file, then `sampler` gets None.
    """

    def entries(configs: Mapping[str, Any], settings: Mapping[str, Mapping]) -> dict:
        config = build(**configs, sampler=sampler(settings.get("scheduler")))
        return {"generator": {"name": name, **dataclasses.asdict(config)}}

    return Model(
        parts={part: Part(component=c, folder=folder) for part, (c, folder) in parts.items()},
        entries=entries,
        settings={"scheduler": "scheduler/scheduler_config.json"},
        inert=names(f"clip_sample clip_sample_range sample_max_value {inert}"),
        copies=("tokenizer",),
        gather=gather,
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
    """A published Wan 2.1 directory in either layout; videos are of the size's own."""
    parts = {
        "transformer": (f"wan2_1_t2v_{size}_transformer", "transformer"),
        "vae": ("wan_vae", "vae"),
        "t5": ("umt5_xxl_encoder", "text_encoder"),
    }

    def read(scheduler: Mapping | None) -> WanSampler:
        sampler = getattr(WanSampler, f"wan2_1_{size}")()
        if scheduler is None:
            return sampler
        found = WanSampler.from_reference(scheduler)
        return dataclasses.replace(found, height=sampler.height, width=sampler.width)

    inert = (
        "beta_start beta_end beta_schedule trained_betas timestep_spacing steps_offset "
        "dynamic_thresholding_ratio rescale_betas_zero_snr sigma_min sigma_max time_shift_type"
    )
    gather = functools.partial(wan_original.gather, f"wan2_1_t2v_{size}_original")
    return _diffusers("wan", WanConfig, read, parts, inert, gather)


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
    **{
        name: _alone(
            name, name, ("component", name), gather=functools.partial(wan_original.alone, name)
        )
        for name in (wan_original.VAE_COMPONENT, wan_original.T5_COMPONENT)
    },
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
