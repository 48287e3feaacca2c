"""Wan2.1-T2V-1.3B and -14B in the layout of Wan-AI's own directories.

    config.json                           of the denoiser alone
    diffusion_pytorch_model.safetensors   or an index and its shards
    Wan2.1_VAE.pth
    models_t5_umt5-xxl-enc-bf16.pth
    google/umt5-xxl/                      the tokenizer

The VAE and the text encoder are the same in both, and no file states their sizes.
"""

from pathlib import Path

from converters.components import Found, Gathered
from converters.sources import ConversionError, Source, scan
from tts_jax.generators.wan.vae import PUBLISHED_MEAN, PUBLISHED_STD

DENOISER = "diffusion_pytorch_model"
VAE = "Wan2.1_VAE.pth"
T5 = "models_t5_umt5-xxl-enc-bf16.pth"
TOKENIZER = "google/umt5-xxl"

# In the words of diffusers' and transformers' config.json.
VAE_FIELDS = {
    "base_dim": 96,
    "z_dim": 16,
    "dim_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "attn_scales": [],
    "temperal_downsample": [False, True, True],
    "latents_mean": list(PUBLISHED_MEAN),
    "latents_std": list(PUBLISHED_STD),
}
T5_FIELDS = {
    "model_type": "umt5",
    "feed_forward_proj": "gated-gelu",
    "vocab_size": 256384,
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_heads": 64,
    "num_layers": 24,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "layer_norm_epsilon": 1e-6,
}
VAE_COMPONENT = "wan_vae_original"
T5_COMPONENT = "umt5_xxl_encoder_original"


def is_original(folder: Path) -> bool:
    """Whether a directory has one of Wan-AI's files, and no denoiser in the layout of diffusers."""
    if not folder.is_dir() or (folder / "transformer").is_dir():
        return False
    files = (VAE, T5, f"{DENOISER}.safetensors", f"{DENOISER}.safetensors.index.json")
    return any((folder / name).is_file() for name in files)


def shared_parts(folder: Path) -> dict[str, Gathered]:
    """The VAE and the text encoder of a directory, whose faults are noted and not raised."""
    tokenizer = (folder / TOKENIZER,)
    return {
        "vae": Gathered(VAE_FIELDS, scan(folder / VAE), component=VAE_COMPONENT),
        "t5": Gathered(T5_FIELDS, scan(folder / T5), tokenizer, component=T5_COMPONENT),
    }


def gather(component: str, source: Path, base: Path | None) -> Found | None:
    """All parts of a directory; None if it has another layout.

    Args:
      component: that the denoiser is.
      source: the directory.
      base: of none that is whole.
    """
    if base is not None or not is_original(source):
        return None
    denoiser = Gathered(
        None, _scan_denoiser(source), component=component, config=source / "config.json"
    )
    return Found({"transformer": denoiser, **shared_parts(source)}, source, settings=False)


def alone(component: str, source: Path, base: Path | None) -> Found | None:
    """The VAE or the text encoder by itself, which no `config.json` describes.

    Raises:
      ConversionError: it is not a file.
    """
    if base is not None:
        return None
    if not source.is_file():
        raise ConversionError(f"{source} is a folder: name the file of weights in it")
    fields = VAE_FIELDS if component == VAE_COMPONENT else T5_FIELDS
    return Found({component: Gathered(fields, scan(source))}, source.parent)


def _scan_denoiser(folder: Path) -> Source:
    whole = folder / f"{DENOISER}.safetensors"
    sharded = (folder / f"{whole.name}.index.json").is_file()
    return scan(folder) if sharded else scan(whole)
