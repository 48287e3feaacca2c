"""Published models without any file of theirs, for plans: sizes are known, weights are not needed.

What a search takes depends on how many tokens a text has and not on which, so stand-ins take the
place of tokenizers: rows of a generator's length, and a token for every four letters of a judge's.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tts_jax.generators import GENERATORS, override
from tts_jax.generators.causal_wan.generator import CausalWanConfig
from tts_jax.generators.cogvideox.generator import CogVideoXConfig
from tts_jax.generators.latte.generator import LatteConfig
from tts_jax.generators.nova.generator import NovaConfig
from tts_jax.generators.open_sora.parts import OpenSoraConfig
from tts_jax.generators.protocol import Generator
from tts_jax.generators.pyramid_flow.generator import PyramidFlowConfig
from tts_jax.generators.pyramid_flow.mmdit import MMDiTConfig
from tts_jax.generators.pyramid_flow.sampler_config import SamplerConfig
from tts_jax.generators.pyramid_flow.text import T5_LENGTH
from tts_jax.generators.pyramid_flow.transformer import TransformerConfig
from tts_jax.generators.pyramid_flow.vae import LatentFactors, VAEConfig
from tts_jax.generators.t5_parts import PartsConfig
from tts_jax.generators.wan.generator import WanConfig
from tts_jax.language.clip_text import TextConfig
from tts_jax.language.reader import PLACEHOLDER
from tts_jax.language.t5 import T5Config
from tts_jax.verifiers.clip import CLIPConfig, ClipVerifier
from tts_jax.verifiers.clip_score import ClipScoreVerifier
from tts_jax.verifiers.image_selector import ImageSelectorConfig, ImageSelectorVerifier
from tts_jax.verifiers.protocol import Verifier
from tts_jax.verifiers.viclip import ViCLIPConfig, ViClipVerifier
from tts_jax.verifiers.videollama3 import VideoLLaMA3Config, VideoLLaMA3Verifier
from tts_jax.verifiers.videoscore import VideoScoreConfig, VideoScoreVerifier
from tts_jax.verifiers.visionreward import (
    Checklist,
    VisionRewardConfig,
    VisionRewardVerifier,
)

LETTERS = 4  # of a token, about, in English


class StandInTokenizer:
    """Gives every text a whole row of tokens."""

    def __init__(self, length: int):
        """Of rows of `length` tokens."""
        self.length, self.pad_id, self.eos_id = length, 0, 1

    def tokenize(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Ids and mask, [P, L] int32 and bool."""
        shape = len(texts), self.length
        return np.ones(shape, np.int32), np.ones(shape, bool)


class StandInReader:
    """Gives a text a token for every `LETTERS` letters."""

    def special(self, token: str) -> int:
        """An id."""
        return 0

    def answer(self, word: str) -> int:
        """An id, another for a word of another length."""
        return len(word)

    def encode(self, text: str) -> list[int]:
        """Ids of a text."""
        return [0] * -(-len(text) // LETTERS)

    def fill(self, template: str, prompt: str, placeholder: str = PLACEHOLDER) -> list[int]:
        """Ids of a template with a prompt in it."""
        return self.encode(template.replace(placeholder, prompt))


def _pyramid_flow(variant: str, size: str) -> PyramidFlowConfig:
    clip = TextConfig.clip_vit_large_patch14()
    towers = {"clip": dataclasses.replace(clip, projection=None)}
    transformer: Any = TransformerConfig.flux()
    if variant == "mmdit":
        transformer = MMDiTConfig.published()
        towers = {"clip": clip, "clip_g": TextConfig.open_clip_bigg()}
    sampler = getattr(SamplerConfig, f"published_{size}")()
    return PyramidFlowConfig(
        vae=dataclasses.replace(VAEConfig.published(), latent_channels=transformer.latent_channels),
        latent_factors=getattr(LatentFactors, variant)(),
        transformer=transformer,
        sampler=dataclasses.replace(sampler, channels=transformer.latent_channels),
        t5=T5Config.t5_v1_1_xxl(),
        **towers,
    )


def _t5_rows(config: PartsConfig) -> dict[str, int]:
    return {"t5": config.sampler.text_length}


def _pyramid_rows(config: PyramidFlowConfig) -> dict[str, int]:
    towers = config.encoders.pooling.items()
    return {**{name: tower.length for name, tower in towers}, "t5": T5_LENGTH}


def _nova_rows(config: NovaConfig) -> dict[str, int]:
    return {config.encoder_name: config.transformer.text_length}


def _open_sora_rows(config: OpenSoraConfig) -> dict[str, int]:
    return {"t5": config.transformer.text_length}


# Name of a converted checkpoint's folder: what makes its config.
MODELS = {
    "cogvideox_2b": ("cogvideox", CogVideoXConfig.cogvideox_2b, _t5_rows),
    "cogvideox_5b": ("cogvideox", CogVideoXConfig.cogvideox_5b, _t5_rows),
    "wan2_1_1_3b": ("wan", WanConfig.wan2_1_1_3b, _t5_rows),
    "wan2_1_14b": ("wan", WanConfig.wan2_1_14b, _t5_rows),
    "causal_wan_1_3b": ("causal_wan", CausalWanConfig.self_forcing, _t5_rows),
    "open_sora_1_2": ("open_sora", OpenSoraConfig.open_sora_1_2, _open_sora_rows),
    "latte_1": ("latte", LatteConfig.latte_1, _t5_rows),
    "nova_d48w1024_osp480": ("nova", NovaConfig.d48w1024_osp480, _nova_rows),
    **{
        f"pyramid_flow_{variant}_{size}": (
            "pyramid_flow",
            lambda variant=variant, size=size: _pyramid_flow(variant, size),
            _pyramid_rows,
        )
        for variant in ("flux", "mmdit")
        for size in ("384p", "768p")
    },
}
# Texts that a judge is asked with count by their lengths alone: those of the published ones, in
# letters. Stages ask 6, 4 and 5 questions, as Video-T1 publishes them.
TEMPLATE, QUESTION, QUESTIONS, STAGES = 1163, 47, 29, (6, 4, 5)


def _checklist(count: int) -> Checklist:
    return Checklist(("?" * QUESTION,) * count, (1.0,) * count)


# A judge, its sizes and the stand-ins of its texts.
JUDGES = {
    "image_selector": (ImageSelectorVerifier, ImageSelectorConfig.llava_onevision_7b, {}),
    "videollama3": (VideoLLaMA3Verifier, VideoLLaMA3Config.videollama3_7b, {}),
    "videoscore": (
        VideoScoreVerifier,
        VideoScoreConfig.videoscore,
        dict(template="." * TEMPLATE + "{text_prompt}"),
    ),
    "visionreward": (
        VisionRewardVerifier,
        VisionRewardConfig.visionreward_video,
        dict(checklist=_checklist(QUESTIONS), stages=tuple(map(_checklist, STAGES))),
    ),
}
TOWERS = {
    "clip": (ClipVerifier, CLIPConfig.clip_vit_large_patch14),
    "clip_score": (ClipScoreVerifier, CLIPConfig.clip_vit_large_patch14),
    "viclip": (ViClipVerifier, ViCLIPConfig.viclip_l14),
}


def published_generator(name: str, checkpoint: Path | str, **overrides: Any) -> Generator:
    """A published generator, its tokenizers stand-ins.

    Args:
      name: of the generator.
      checkpoint: folder of a converted checkpoint, whose name says which; it need not exist.
      **overrides: sampler fields.

    Raises:
      ValueError: no published checkpoint has that name, or an override that the sampler refuses.
    """
    found = MODELS.get(Path(checkpoint).name)
    if found is None or found[0] != name:
        known = ", ".join(key for key, (own, *_) in MODELS.items() if own == name)
        raise ValueError(
            f"checkpoint {checkpoint} does not exist, and no published {name} is called "
            f"{Path(checkpoint).name!r}; there are {known}"
        )
    config = override(found[1](), overrides)
    rows = {part: StandInTokenizer(length) for part, length in found[2](config).items()}
    return GENERATORS[name][0](config, rows)


def published_verifier(name: str, options: Mapping[str, Any]) -> Verifier:
    """A published verifier, its tokenizer a stand-in.

    Args:
      name: of the verifier.
      options: a judge's.

    Raises:
      ValueError: one whose questions lie with its checkpoint.
    """
    if name in TOWERS:
        build, config = TOWERS[name]
        config = config()
        return build(config, StandInTokenizer(config.text.length))
    if name in JUDGES:
        build, config, texts = JUDGES[name]
        return build(config(), StandInReader(), **{**texts, **options})
    raise ValueError(
        f"a plan of {name} needs its checkpoint's folder; without one there are "
        f"{', '.join((*TOWERS, *JUDGES))}"
    )
