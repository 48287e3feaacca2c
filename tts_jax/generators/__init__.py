"""Generators by name: text-to-video models seen as chains of segments."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from tts_jax import precision
from tts_jax.checkpoints import CheckpointError, load_parts, save_safetensors
from tts_jax.generators.causal_wan.generator import CausalWan, CausalWanConfig
from tts_jax.generators.cogvideox.generator import CogVideoX, CogVideoXConfig
from tts_jax.generators.from_image import FromImage
from tts_jax.generators.latte.generator import Latte, LatteConfig
from tts_jax.generators.nova.generator import Nova, NovaConfig
from tts_jax.generators.open_sora.generator import OpenSora
from tts_jax.generators.open_sora.parts import OpenSoraConfig
from tts_jax.generators.protocol import Generator
from tts_jax.generators.pyramid_flow.generator import PyramidFlow, PyramidFlowConfig
from tts_jax.generators.wan.generator import Wan, WanConfig
from tts_jax.media import read_image
from tts_jax.nn.attention import check

EMBEDDED = Path(__file__).parent.parent / "assets"

GENERATORS = {
    "pyramid_flow": (PyramidFlow, PyramidFlowConfig),
    "cogvideox": (CogVideoX, CogVideoXConfig),
    "nova": (Nova, NovaConfig),
    "wan": (Wan, WanConfig),
    "causal_wan": (CausalWan, CausalWanConfig),
    "open_sora": (OpenSora, OpenSoraConfig),
    "latte": (Latte, LatteConfig),
}


def open_generator(
    name: str, checkpoint: Path | str | None = None, *, image: Path | str = "", **overrides
) -> Generator:
    """A generator without its parameters; arguments and errors as of `load_generator`."""
    if name not in GENERATORS:
        raise ValueError(f"unknown generator {name!r}; there are {', '.join(GENERATORS)}")
    build, config_type = GENERATORS[name]
    folder = _folder(name, checkpoint)
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path} does not exist")
    try:
        fields = json.loads(path.read_text())["generator"]
        if fields["name"] != name:
            raise CheckpointError(f"{path} holds generator {fields['name']!r}, not {name!r}")
        config = config_type.from_json(fields)
    except KeyError as error:
        raise CheckpointError(f"{path} has no field {error}") from error
    except CheckpointError:
        raise
    except (TypeError, AttributeError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    config = override(config, overrides)
    try:
        tokenizers = config.open_tokenizers(folder)
    except Exception as error:  # the tokenizers library raises nothing narrower
        raise CheckpointError(f"a tokenizer of {folder} cannot be read: {error}") from error
    generator = build(config, tokenizers)
    if image:
        if not hasattr(generator, "begin_with_image"):
            raise ValueError(f"{name} does not start from an image")
        generator = FromImage(generator, read_image(image, *generator.frame_size))
    return generator


def load_generator(
    name: str,
    checkpoint: Path | str | None = None,
    *,
    image: Path | str = "",
    place: Callable[[dict], dict] = dict,
    weights: str = precision.STORED,
    **overrides,
) -> tuple[Generator, dict]:
    """A generator and its parameters.

    Args:
      name: one of `GENERATORS`.
      checkpoint: a folder with `config.json`, tokenizers and the parameters, as one safetensors
        file per part of the model or as `converters.convert` writes them; None or "embedded" takes
        the small one inside the package, of Pyramid-Flow or NOVA.
      image: a picture that videos start from, for those that can begin with one.
      place: gives abstract parameters the shardings with which those of a converted checkpoint are
        read; by default they are read onto one device.
      weights: the type in which parameters are held, see `tts_jax.precision`.
      **overrides: sampler fields that replace those of the checkpoint, and `attention`, by name
        one of `tts_jax.nn.attention.IMPLEMENTATIONS`.

    Returns:
      The generator and its nested parameter dictionary; float32 or as converted, by default.

    Raises:
      ValueError: unknown name or type, an override that the sampler refuses, an image that cannot
        be used.
      CheckpointError: the folder does not hold this generator, or another shape of it.
    """
    precision.check(weights)
    generator = open_generator(name, checkpoint, image=image, **overrides)
    networks = getattr(generator, "generator", generator)  # inside of one from an image
    params = load_parts(_folder(name, checkpoint), place(networks.abstract_params), weights=weights)
    return generator, params


def _folder(name: str, checkpoint: Path | str | None) -> Path:
    if checkpoint not in (None, "", "embedded"):
        return Path(checkpoint)
    own = EMBEDDED / name
    return own if own.is_dir() else EMBEDDED


def save_generator(folder: Path | str, generator: Generator, params: dict) -> None:
    """Writes a generator where `load_generator` finds it; `tokenizer.json` must be there already.

    Args:
      folder: gets one safetensors file per part; its `config.json` keeps its other entries.
      generator: the model.
      params: nested parameter dictionary, one entry per part; a part left out is not written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for part, values in params.items():
        save_safetensors(folder / f"{part}.safetensors", values)
    path = folder / "config.json"
    entries = json.loads(path.read_text()) if path.is_file() else {}
    entries["generator"] = {"name": generator.name, **dataclasses.asdict(generator.config)}
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(json.dumps(entries, indent=2) + "\n")
    temporary.replace(path)


def override(config, overrides: Mapping):
    """A generator's config with other sampler fields, or another `attention` of its denoiser.

    Raises:
      ValueError: a field that the sampler lacks, or a value that it refuses.
    """
    overrides = dict(overrides)
    if attention := overrides.pop("attention", None):
        check(attention)
        config = dataclasses.replace(
            config, transformer=dataclasses.replace(config.transformer, attention=attention)
        )
    sampler = config.sampler
    known = {field.name for field in dataclasses.fields(sampler)}
    unknown = sorted(set(overrides) - known)
    if unknown:
        raise ValueError(f"unknown sampler fields {unknown}; there are {sorted(known)}")
    return dataclasses.replace(config, sampler=dataclasses.replace(sampler, **overrides))
