"""Verifiers by name: scorers of (frames, prompt), higher is better."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from tts_jax import precision
from tts_jax.checkpoints import ORBAX, CheckpointError, load_parts, parse, save_safetensors
from tts_jax.language.clip_text import TextConfig
from tts_jax.language.published import open_published
from tts_jax.language.tokenizer import open_tokenizer
from tts_jax.verifiers.aesthetic import AestheticConfig, AestheticVerifier
from tts_jax.verifiers.clip import CLIPConfig, ClipVerifier
from tts_jax.verifiers.clip_score import ClipScoreVerifier
from tts_jax.verifiers.flicker import FlickerVerifier
from tts_jax.verifiers.judges import JUDGES, open_judge
from tts_jax.verifiers.oracle import OracleVerifier
from tts_jax.verifiers.protocol import Verifier
from tts_jax.verifiers.proxies import PROXIES
from tts_jax.verifiers.viclip import ViCLIPConfig, ViClipVerifier
from tts_jax.vision.vit import VisionConfig

EMBEDDED = Path(__file__).parent.parent / "assets"

TRAINED = {"clip": (ClipVerifier, CLIPConfig), "viclip": (ViClipVerifier, ViCLIPConfig)}
WEIGHT_FREE = {"flicker": FlickerVerifier, "oracle": OracleVerifier, **PROXIES}
PUBLISHED = ("clip_score", "aesthetic", *JUDGES)  # have no embedded checkpoint
NAMES = (*TRAINED, *PUBLISHED, *WEIGHT_FREE)
VBENCH = "vbench."  # begins the names of VBench's dimensions as verifiers


def parse_config(name: str, fields: Mapping) -> CLIPConfig:
    """A trained verifier's configuration from its JSON form.

    Args:
      name: "clip" or "viclip".
      fields: dataclass fields, nested.

    Raises:
      TypeError: an unknown or a missing field.
    """
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    fields["vision"] = VisionConfig(**fields["vision"])
    fields["text"] = TextConfig(**fields["text"])
    return TRAINED[name][1](**fields)


def load_verifier(
    name: str,
    checkpoint: Path | str | None = None,
    texts: Path | str | None = None,
    options: Mapping[str, Any] | None = None,
    place: Callable[[dict], dict] = dict,
    weights: str = precision.STORED,
) -> tuple[Verifier, dict]:
    """A verifier and its parameters.

    Args:
      name: one of `NAMES`, or of `tts_jax.evaluation.vbench.verifier.NAMES`, a search by which
        gives an upper bound.
      checkpoint: a folder with `config.json`, `tokenizer.json` and `{name}.safetensors`, or one
        that `converters.convert` wrote; None takes the embedded one. Verifiers without weights
        ignore it.
      texts: a judge's, instead of `judge.json` in its folder; see `tts_jax.verifiers.judges`.
      options: a judge's, instead of those in that file; the `fps` of a dimension of VBench.
      place: gives abstract parameters the shardings with which those of a converted checkpoint are
        read; by default they are read onto one device.
      weights: the type in which parameters are held, see `tts_jax.precision`; dimensions of VBench
        keep their own, with which they are defined.

    Returns:
      The verifier and its nested parameter dictionary: by default float32, or for judges as stored.

    Raises:
      ValueError: unknown name or type, or texts or options for what is no judge.
      CheckpointError: the folder does not hold this verifier, or another shape of it.
    """
    precision.check(weights)
    verifier = open_verifier(name, checkpoint, texts, options)
    if name.startswith(VBENCH):
        return verifier, verifier.params
    if name in WEIGHT_FREE:
        return verifier, {}
    folder, like = Path(checkpoint or EMBEDDED), verifier.abstract_params
    if name == "aesthetic":
        return verifier, load_parts(folder, place(like), weights=weights)
    part = "clip" if name == "clip_score" else name
    dtype = jnp.float32 if name in TRAINED else None
    return verifier, load_parts(folder, place({part: like}), dtype, weights)[part]


def open_verifier(
    name: str,
    checkpoint: Path | str | None = None,
    texts: Path | str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Verifier:
    """A verifier without its parameters; arguments and errors as of `load_verifier`."""
    if name.startswith(VBENCH):
        # That package is built of verifiers.
        from tts_jax.evaluation.vbench.verifier import open_dimension

        if texts:
            raise ValueError(f"{name} takes no texts; {', '.join(JUDGES)} do")
        return open_dimension(name, checkpoint, options or {})
    if name not in NAMES:
        known = ", ".join((*NAMES, f"{VBENCH}<dimension>"))
        raise ValueError(f"unknown verifier {name!r}; there are {known}")
    asked = {"texts": Path(texts) if texts else None, "options": dict(options or {})}
    if any(asked.values()) and name not in JUDGES:
        raise ValueError(f"{name} takes no texts and no options; {', '.join(JUDGES)} do")
    if name in WEIGHT_FREE:
        return WEIGHT_FREE[name]()
    if name in PUBLISHED:
        return _open_published(name, checkpoint, asked)
    folder = Path(checkpoint or EMBEDDED)
    try:
        fields = json.loads((folder / "config.json").read_text())["verifiers"][name]
        config = parse_config(name, fields)
        if (folder / ORBAX).is_dir():
            tokenizer = open_published(folder, config.text.length)
        else:
            tokenizer = open_tokenizer(folder / "tokenizer.json", config.text.length)
    except FileNotFoundError as error:
        missing = f"checkpoint {error.filename} does not exist" if error.filename else str(error)
        raise CheckpointError(missing) from error
    except KeyError as error:
        raise CheckpointError(f"{folder / 'config.json'} has no verifier {name!r}") from error
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{folder / 'config.json'}: {error}") from error
    return TRAINED[name][0](config, tokenizer)


def _open_published(name: str, checkpoint: Path | str | None, asked: Mapping) -> Verifier:
    """A verifier of a converted checkpoint."""
    if checkpoint is None:
        raise CheckpointError(f"{name} has no embedded checkpoint: convert one and name its folder")
    folder = Path(checkpoint)
    part = "clip" if name == "clip_score" else name
    try:
        fields = json.loads((folder / "config.json").read_text())["verifiers"][part]
        if name == "clip_score":
            config = parse(CLIPConfig, fields)
            return ClipScoreVerifier(config, open_published(folder, config.text.length))
        if name == "aesthetic":
            return AestheticVerifier(parse(AestheticConfig, fields))
        return open_judge(name, folder, fields, **asked)
    except FileNotFoundError as error:
        missing = f"checkpoint {error.filename} does not exist" if error.filename else str(error)
        raise CheckpointError(missing) from error
    except KeyError as error:
        raise CheckpointError(f"{folder / 'config.json'} has no verifier {part!r}") from error
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{folder}: {error}") from error


def save_verifier(folder: Path | str, verifier: ClipVerifier, params: dict) -> None:
    """Writes a trained verifier where `load_verifier` finds it, beside what is there already.

    Args:
      folder: gets `{name}.safetensors`; its `config.json` gets or keeps the other entries.
      verifier: `clip` or `viclip`.
      params: nested parameter dictionary.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_safetensors(folder / f"{verifier.name}.safetensors", params)
    path = folder / "config.json"
    entries = json.loads(path.read_text()) if path.is_file() else {}
    entries.setdefault("verifiers", {})[verifier.name] = dataclasses.asdict(verifier.config)
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(json.dumps(entries, indent=2) + "\n")
    temporary.replace(path)
