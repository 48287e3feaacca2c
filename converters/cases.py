"""What is recorded of each component in a golden folder, and how to run it.

A golden folder's name is that of its case. Tensors are recorded as the original has them, channels
before frames and rows; docs/recording_golden.md lists the names.

B batch  T frames  H W size  C channels  L tokens.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from converters import aesthetic
from converters.components import Component, open_component
from converters.core import stream
from converters.registry import COMPONENTS
from converters.sources import ConversionError, refuse
from tts_jax.checkpoints import unflatten
from tts_jax.generators.cogvideox import vae as cogvideox
from tts_jax.generators.latte.vae import FrameVAE
from tts_jax.generators.nova import vae as nova_vae
from tts_jax.generators.nova.transformer import patchify
from tts_jax.generators.open_sora.vae import OpenSoraVAE
from tts_jax.generators.pyramid_flow.denoiser import Clip
from tts_jax.generators.pyramid_flow.vae import (
    CausalVideoVAE,
    LatentFactors,
    decode_latent,
)
from tts_jax.generators.wan import vae as wan
from tts_jax.language.clip_text import TextTower
from tts_jax.nn.autoencoder import posterior_sample
from tts_jax.nn.encoder import normalise
from tts_jax.verifiers.aesthetic import HeadConfig
from tts_jax.verifiers.clip import CLIP

Tensors = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Run:
    """Runs compiled functions of a module.

    Attributes:
      graph, params: the module.
      fields: the published `config.json`.
    """

    graph: nnx.GraphDef
    params: dict
    fields: Mapping

    def __call__(self, function: Callable, *inputs):
        """The result of a function of the module and inputs."""

        def call(params, *xs):
            return function(nnx.merge(self.graph, params), *xs)

        return jax.jit(call)(self.params, *inputs)

    def field(self, name: str):
        """A field of `config.json`.

        Raises:
          ConversionError: there is none.
        """
        if name not in self.fields:
            raise ConversionError(f"config.json has no field {name!r}, which recordings need")
        return self.fields[name]


@dataclass(frozen=True)
class Output:
    """One output of a model beside the original's, and the difference that is allowed."""

    name: str
    found: np.ndarray
    wanted: np.ndarray
    atol: float
    rtol: float = 1e-5

    @property
    def _distance(self) -> np.ndarray:
        found, wanted = np.asarray(self.found), np.asarray(self.wanted)
        if found.shape != wanted.shape:
            raise ValueError(f"{self.name} is {found.shape}, recorded is {wanted.shape}")
        return np.abs(found.astype(np.float64) - wanted.astype(np.float64))

    @property
    def difference(self) -> float:
        """The largest difference; infinite where a number is missing."""
        return float(np.nan_to_num(self._distance, nan=np.inf, posinf=np.inf).max(initial=0))

    @property
    def relative_error(self) -> float:
        """The largest difference over the largest recorded value."""
        largest = float(np.abs(self.wanted.astype(np.float64)).max(initial=0))
        return self.difference / largest if largest else self.difference

    @property
    def good(self) -> bool:
        """Whether every difference is allowed."""
        allowed = self.atol + self.rtol * np.abs(self.wanted.astype(np.float64))
        return bool((self._distance <= allowed).all())


@dataclass(frozen=True)
class Case:
    """A component and its recorded calls.

    Attributes:
      component: the name of one of `converters.registry.COMPONENTS`, or of a model that is verified
        but not converted.
      outputs: runs the inputs among the tensors of `io.safetensors`.
      recorded: the component as golden folders have it, where that is not as it is published.
      wants: the tensor that tells that a folder has recorded the component; "" of all folders.
    """

    component: str
    outputs: Callable[[Run, Tensors], Iterator[Output]]
    recorded: Component | None = None
    wants: str = ""

    def load(self, folder: Path) -> Run:
        """The model of a golden folder's weights.

        Raises:
          ConversionError: the folder is incomplete, or does not fit the table.
        """
        component = self.recorded or COMPONENTS[self.component]
        found = open_component(component, folder / "config.json", folder / "weights.safetensors")
        refuse(found.faults)
        params = unflatten(dict(stream(found.tensors, found.like, found.steps)), found.like)
        return Run(found.graph, params, found.fields)


def channels_last(x: np.ndarray) -> np.ndarray:
    """[B, C, ...] to [B, ..., C]."""
    return np.moveaxis(x, 1, -1)


def vae_outputs(run: Run, tensors: Tensors) -> Iterator[Output]:
    """Calls of the Pyramid-Flow VAE: clips whole, in windows, in tiles, and as 8-bit frames."""
    tolerance = 1e-5
    for name, wanted in tensors.items():
        if not (
            call := re.fullmatch(r"(enc|dec)_(t\d+|tiled)(?:_chunk(\d+))?\.(moments|out)", name)
        ):
            continue
        kind, clip, window = call[1], call[2], call[3]
        inputs = channels_last(tensors[f"{kind}_{clip}.in"])
        methods = {"enc": ("encode", 8), "dec": ("decode", 1)}
        method, default = methods[kind]
        if clip == "tiled":
            function = getattr(CausalVideoVAE, f"{method}_tiled")
            function = functools.partial(function, tile=32, window=default)
        elif window:
            function = getattr(CausalVideoVAE, f"{method}_chunked")
            function = functools.partial(function, window=int(window))
        else:
            function = getattr(CausalVideoVAE, method)
        yield Output(name, run(function, inputs), channels_last(wanted), tolerance)
    for name in tensors:
        if name.endswith(".sample") and name.startswith("enc_"):
            call = name.removesuffix(".sample")
            moments, noise = (channels_last(tensors[f"{call}.{k}"]) for k in ("moments", "eps"))
            yield Output(
                name, posterior_sample(moments, noise), channels_last(tensors[name]), tolerance
            )
        if call := re.fullmatch(r"decode_latent\.(flux|mmdit)\.(.+)\.frames", name):
            latents = channels_last(tensors[f"decode_latent.{call[1]}.{call[2]}.in"])
            decode = functools.partial(CausalVideoVAE.decode_tiled, tile=256, window=1)
            frames = decode_latent(
                lambda z, decode=decode: run(decode, z),
                latents,
                getattr(LatentFactors, call[1])(),
            )
            yield Output(name, frames[0], tensors[name], atol=1)  # of 255 grey levels


def denoiser_outputs(run: Run, tensors: Tensors) -> Iterator[Output]:
    """Calls of either Pyramid-Flow denoiser; an entry of a packed call is a call by itself."""
    for name, wanted in tensors.items():
        if not (call := re.fullmatch(r"(.+)\.out\.(\d+)", name)):
            continue
        case, entry = call[1], int(call[2])
        entries = sum(bool(re.fullmatch(re.escape(case) + r"\.out\.\d+", n)) for n in tensors)
        rows = [
            tensors[f"{case}.in.{n}"][entry::entries]
            for n in (
                "encoder_hidden_states",
                "encoder_attention_mask",
                "pooled_projections",
                "timestep",
            )
        ]
        sample = f"{case}.in.sample.{entry}."
        count = sum(n.startswith(sample) for n in tensors)
        clips = [channels_last(tensors[f"{sample}{j}"]) for j in range(count)]
        starts = np.cumsum([0, *(clip.shape[1] for clip in clips)])
        history = tuple(
            Clip(clip, start + np.arange(clip.shape[1]), np.ones(clip.shape[1], bool))
            for clip, start in zip(clips[:-1], starts, strict=False)
        )
        times = starts[count - 1] + np.arange(clips[-1].shape[1])

        def denoise(model, *inputs):
            return model(*inputs)

        found = run(denoise, clips[-1], times, history, *rows)
        # float32 angles up to 1000 differ by some 6e-5 between implementations
        atol = 2e-5 if rows[-1].max() < 300 else 2e-4
        yield Output(name, found, channels_last(wanted), atol)


def _calls(tensors: Tensors, suffix: str) -> Iterator[tuple[str, np.ndarray]]:
    """Names before a suffix, and what is recorded under the whole name."""
    for name, value in tensors.items():
        if name.endswith(suffix):
            yield name.removesuffix(suffix), value


def _within(name: str, found: Array, wanted: np.ndarray) -> Output:
    """An output that may err by 1e-4 of its largest value."""
    return Output(name, found, wanted, atol=1e-4 * float(np.abs(wanted).max(initial=0)))


def cogvideox_outputs(run: Run, tensors: Tensors) -> Iterator[Output]:
    """Calls of a CogVideoX denoiser, whose clips are recorded as [B, T, C, H, W]."""
    for call, wanted in _calls(tensors, ".out"):
        clip, text, time = (
            tensors[f"{call}.in.{n}"]
            for n in ("hidden_states", "encoder_hidden_states", "timestep")
        )
        found = run(lambda model, *xs: model(*xs), np.moveaxis(clip, 2, -1), text, time)
        yield _within(f"{call}.out", found, np.moveaxis(wanted, 2, -1))


def cogvideox_vae_outputs(run: Run, tensors: Tensors) -> Iterator[Output]:
    """Calls of the CogVideoX VAE; those with "tiled" in their name are tiled."""
    methods = {".moments": "encode", ".out": "decode"}
    for suffix, method in methods.items():
        for call, wanted in _calls(tensors, suffix):
            name = f"{method}_tiled" if "tiled" in call else method
            found = run(
                getattr(cogvideox.CausalVideoVAE, name), channels_last(tensors[f"{call}.in"])
            )
            yield _within(call + suffix, found, channels_last(wanted))


def latte_outputs(run: Run, tensors: Tensors) -> Iterator[Output]:
    """Calls of Latte's denoiser, whose clips are recorded as [B, C, T, H, W]; all of a text counts.

    The output has the noise first and what is learned of its variance second.
    """
    for call, wanted in _calls(tensors, ".out"):
        clip, text, time = (
            tensors[f"{call}.in.{n}"]
            for n in ("hidden_states", "encoder_hidden_states", "timestep")
        )
        found = run(lambda model, *xs: model(*xs), channels_last(clip), text, time)
        yield _within(f"{call}.out", np.concatenate(found, axis=-1), channels_last(wanted))


def frame_vae_outputs(run: Run, tensors: Tensors) -> Iterator[Output]:
    """Calls of Stable Diffusion's autoencoder, of images; its log-variances come clamped."""

    def frames(x: np.ndarray) -> np.ndarray:
        return channels_last(x)[:, None]

    for call, wanted in _calls(tensors, ".moments"):
        found = run(FrameVAE.encode, frames(tensors[f"{call}.in"]))
        mean, logvar = np.split(found, 2, axis=-1)
        found = np.concatenate([mean, np.clip(logvar, -30, 20)], axis=-1)
        yield _within(f"{call}.moments", found, frames(wanted))
    for call, wanted in _calls(tensors, ".out"):
        found = run(FrameVAE.decode, frames(tensors[f"{call}.in"]))
        yield _within(f"{call}.out", found, frames(wanted))


def wan_outputs(run: Run, tensors: Tensors) -> Iterator[Output]:
    """Calls of Wan's denoiser, whose clips are recorded as [B, C, T, H, W]."""
    for call, wanted in _calls(tensors, ".out"):
        clip, text, time = (
            tensors[f"{call}.in.{n}"]
            for n in ("hidden_states", "encoder_hidden_states", "timestep")
        )
        found = run(lambda model, *xs: model(*xs), channels_last(clip), text, time)
        yield _within(f"{call}.out", found, channels_last(wanted))


def causal_wan_outputs(run: Run, tensors: Tensors) -> Iterator[Output]:
    """Calls of causal Wan's denoiser on all frames under a mask, in the order [B, C, T, H, W]."""
    for call, mask in _calls(tensors, ".frame_mask"):
        clip, time = channels_last(tensors["x"]), tensors["t"]
        wanted, frames = channels_last(tensors[f"{call}.out"]), clip.shape[1]
        positions = np.arange(frames)
        if len(mask) > frames:  # clean frames before them, read at a time of their own
            before = tensors["aug_t"] if call.endswith("_aug") else np.zeros_like(time)
            clip = np.concatenate([channels_last(tensors["clean_x"]), clip], axis=1)
            time, positions = np.concatenate([before, time], axis=1), np.tile(positions, 2)

        def function(model, *inputs, mask=mask, positions=positions):
            return model(*inputs, frame_mask=mask.astype(bool), positions=positions)

        found = run(function, clip, tensors["context"], time)
        yield _within(f"{call}.out", found[:, -frames:], wanted)


def wan_vae_outputs(run: Run, tensors: Tensors) -> Iterator[Output]:
    """Calls of Wan's VAE; those with "tiled" in their name are tiled."""
    for call, wanted in _calls(tensors, ".moments"):
        method = "encode_tiled" if "tiled" in call else "encode"
        found = run(getattr(wan.CausalVideoVAE, method), channels_last(tensors[f"{call}.in"]))
        yield _within(f"{call}.moments", found, channels_last(wanted))
    for call, wanted in _calls(tensors, ".out"):
        method = "decode_tiled" if "tiled" in call else "decode"
        found = run(getattr(wan.CausalVideoVAE, method), channels_last(tensors[f"{call}.in"]))
        yield _within(f"{call}.out", found, channels_last(wanted))


def t5_outputs(run: Run, tensors: Tensors) -> Iterator[Output]:
    """Calls of a T5 encoder; where tokens are masked, only the states of the others count."""
    for call, wanted in _calls(tensors, ".out"):
        tokens = tensors[f"{call}.in.input_ids"].astype(np.int32)
        mask = tensors.get(f"{call}.in.attention_mask", np.ones(tokens.shape)).astype(bool)
        found = np.asarray(run(lambda model, *xs: model(*xs), tokens, mask))
        yield _within(f"{call}.out", found[mask], wanted[mask])


def nova_outputs(run: Run, tensors: Tensors) -> Iterator[Output]:
    """Calls of NOVA's networks: prompt tokens, video encoder, image encoder, patch decoder."""
    prompt = run(
        lambda model, *xs: model.embed_prompt(*xs),
        *(tensors[name] for name in ("text/padded", "motion/flow", "motion/fps")),
    )
    yield Output("cond/c", prompt, tensors["cond/c"], atol=5e-5)
    video = run(
        lambda model, *xs: model.video.whole(*xs), tensors["cond/c"], tensors["video/tokens"]
    )
    yield Output("video/causal_out", video, tensors["video/causal_out"], atol=5e-5)
    order = tensors["image/order"][..., 0].astype(np.int32)
    canvas = channels_last(tensors["image/x"])

    def features(model, condition, canvas, order, known):
        tokens = patchify(canvas, model.config.patch)

        def one(condition, tokens, order):
            valid = jnp.arange(len(order)) < known
            blank = model.blank[...][0]
            return model.image(condition[None], blank, tokens[order], order, valid)[0]

        return jax.vmap(one)(condition, tokens, order)

    for name, wanted in tensors.items():
        if call := re.fullmatch(r"image/out_n(\d+)", name):
            found = run(features, tensors["image/c"], canvas, order, int(call[1]))
            yield Output(name, found, wanted, atol=5e-5)

    def decode(model, canvas, times, features):
        times = model.decoder.embed_times(times)[:, None]
        condition = times + model.decoder.embed_features(features)
        return model.decoder(patchify(canvas, model.config.patch), condition)

    canvas = channels_last(tensors["decoder/x"])
    decoded = run(decode, canvas, tensors["decoder/timestep"], tensors["decoder/z"])
    yield Output("decoder/out_all", decoded, tensors["decoder/out_all"], atol=2e-4)


def nova_vae_outputs(run: Run, tensors: Tensors) -> Iterator[Output]:
    """Calls of NOVA's autoencoder; images are recorded without a frame axis."""

    def clip(x):
        return channels_last(x if x.ndim == 5 else x[:, :, None])

    for call, wanted in _calls(tensors, "/moments"):
        found = run(nova_vae.CausalVideoVAE.encode, clip(tensors[f"{call}/x"]))
        yield Output(f"{call}/moments", found, clip(wanted), atol=1e-4, rtol=1e-4)
    for call, wanted in _calls(tensors, "/out"):
        latents = tensors.get(f"{call}/z", tensors["decode_image/z"])
        found = run(nova_vae.CausalVideoVAE.decode, clip(latents))
        yield Output(f"{call}/out", found, clip(wanted), atol=1e-4, rtol=1e-4)


def open_sora_outputs(run: Run, tensors: Tensors) -> Iterator[Output]:
    """Calls of Open-Sora's denoiser; what is recorded of fewer texts than clips is repeated."""
    for call, wanted in _calls(tensors, ".out"):
        prefix = f"{call}.in."
        given = {n.removeprefix(prefix): x for n, x in tensors.items() if n.startswith(prefix)}
        clip, text, time = channels_last(given["x"]), given["y"][:, 0], given["timestep"]
        size = tuple(float(given[name][0]) for name in ("height", "width"))
        more = {"rate": np.resize(given["fps"], len(clip))}
        if "mask" in given:
            more["text_mask"] = np.resize(given["mask"] > 0, text.shape[:2])
        if "x_mask" in given:
            more["noisy"] = given["x_mask"]

        def call_model(model, *xs, size=size):
            *inputs, more = xs
            return model(*inputs, size=size, **more)

        found, wanted = run(call_model, clip, text, time, more), channels_last(wanted)
        atol = 2e-5 * float(np.abs(wanted).max(initial=0))
        yield Output(f"{call}.out", found, wanted, atol, rtol=0)


def open_sora_vae_outputs(run: Run, tensors: Tensors) -> Iterator[Output]:
    """Calls of Open-Sora's autoencoder: both halves, there and back, with noise and without."""

    def close(name: str, found: Array) -> Output:
        wanted = channels_last(tensors[name])
        found = found.reshape(-1, *found.shape[-3:]) if wanted.ndim == 4 else found
        return Output(name, found, wanted, 5e-5 * float(np.abs(wanted).max(initial=0)), rtol=0)

    def noise(call: str) -> tuple[np.ndarray, np.ndarray]:
        """Of small frames, recorded without an axis of time, and of latents, chunk by chunk."""
        draws = sorted(n for n in tensors if n.startswith(f"{call}.enc.temporal_noise."))
        latents = np.concatenate([channels_last(tensors[name]) for name in draws], axis=1)
        small = channels_last(tensors[f"{call}.enc.spatial_noise"])
        return small.reshape(latents.shape[0], -1, *small.shape[1:]), latents

    for call, video in _calls(tensors, ".x"):
        video = channels_last(video)
        methods = {
            "enc.spatial_moments": OpenSoraVAE.spatial_moments,
            "enc.z_mode": OpenSoraVAE.encode,
        }
        for output, method in methods.items():
            if f"{call}.{output}" in tensors:
                yield close(f"{call}.{output}", run(method, video))
        if f"{call}.enc.spatial_noise" in tensors:
            yield close(f"{call}.enc.z", run(OpenSoraVAE.encode, video, noise(call)))
        if f"{call}.dec.video" in tensors:
            decode = functools.partial(OpenSoraVAE.decode, frames=video.shape[1])
            yield close(f"{call}.dec.video", run(decode, channels_last(tensors[f"{call}.enc.z"])))


def phi_outputs(run: Run, tensors: Tensors) -> Iterator[Output]:
    """Calls of Phi-2 as a text encoder."""
    for call, wanted in _calls(tensors, ".out"):
        tokens = tensors[f"{call}.in.input_ids"].astype(np.int32)
        yield _within(f"{call}.out", run(lambda model, *xs: model(*xs), tokens), wanted)


def clip_text_outputs(run: Run, tensors: Tensors) -> Iterator[Output]:
    """Calls of a CLIP text tower: states of all tokens; the pooled one, projected if it can be."""

    def encode(tower: TextTower, tokens: Array) -> tuple[Array, Array]:
        hidden, pooled = tower(tokens)
        return hidden, pooled if tower.config.projection is None else tower.embed(tokens)

    for call, tokens in _calls(tensors, ".in.input_ids"):
        hidden, pooled = run(encode, tokens.astype(np.int32))
        for name, found in (("last_hidden_state", hidden), ("pooled", pooled)):
            if f"{call}.out.{name}" in tensors:
                yield _within(f"{call}.out.{name}", found, tensors[f"{call}.out.{name}"])


def clip_outputs(run: Run, tensors: Tensors) -> Iterator[Output]:
    """Both towers of CLIP, their embeddings and cosines."""
    tokens = tensors["input_ids"].astype(np.int32)
    mask = tensors["attention_mask"].astype(bool)
    pixels = channels_last(tensors["pixel_values"])
    hidden, pooled = run(lambda model, *xs: model.text(*xs), tokens, mask)
    text = run(lambda model, ids: model.text.embed(ids), tokens)
    patches, image_pooled = run(lambda model, x: model.vision(x), pixels)
    image = run(lambda model, x: model.vision.embed(x), pixels)
    cosine = (normalise(image) * normalise(text)).sum(-1)

    def logits(model: CLIP, image, text):
        return jnp.exp(model.logit_scale[...]) * normalise(image) @ normalise(text).T

    found = {
        "text.last_hidden_state": hidden,
        "text.pooled": pooled,
        "text_embeds": text,
        "vision.last_hidden_state": patches,
        "vision.pooled": image_pooled,
        "image_embeds": image,
        "cosine": cosine,
        "logits_per_image": run(logits, image, text),
    }
    for name, values in found.items():
        if name in tensors:
            scaled = name == "logits_per_image"
            yield Output(name, values, tensors[name], atol=1e-4 if scaled else 2e-5)


def tower_outputs(run: Run, tensors: Tensors) -> Iterator[Output]:
    """CLIP's image tower by itself, as the aesthetic predictors have it."""
    image = run(lambda tower, x: tower.embed(x), channels_last(tensors["pixel_values"]))
    yield Output("image_embeds, tower alone", image, tensors["image_embeds"], atol=2e-5)


def _recorded_causal_wan() -> Component:
    """Whose configuration stands beside what the calls were."""
    component = COMPONENTS["causal_wan_1_3b"]
    return dataclasses.replace(
        component,
        read=lambda fields: component.read(fields["model"]),
        inert=component.inert
        | set("cases latent_hw local_attn_size sink_size".split())
        | {"tokens_per_frame"},
    )


def _head(kind: str) -> Case:
    """A LAION head; CLIP's folder has its sizes and its weights among its own."""
    published, name = COMPONENTS[f"laion_aesthetic_{kind}"], f"laion_{kind}"

    def read(fields: Mapping) -> HeadConfig:
        dims = tuple(fields.get("laion_mlp_dims", ()))
        config = dataclasses.replace(published.published(), inputs=fields["projection_dim"])
        return dataclasses.replace(config, widths=dims[1:]) if kind == "mlp" and dims else config

    def prepare(stored: Mapping) -> dict:
        own = {n.removeprefix(f"{name}."): t for n, t in stored.items() if n.startswith(f"{name}.")}
        return aesthetic.prepare(own)

    def outputs(run: Run, tensors: Tensors) -> Iterator[Output]:
        scores = run(lambda head, x: head(normalise(x)), tensors["image_embeds"])
        yield Output(name, scores[:, None], tensors[name], atol=1e-5)

    inert = COMPONENTS["clip_vit_large_patch14"].inert | {"text_config", "vision_config"}
    recorded = dataclasses.replace(published, read=read, prepare=prepare, inert=inert)
    return Case(f"laion_aesthetic_{kind}", outputs, recorded, wants=name)


_SINGLE = {
    "pyramid_flow_vae": Case("pyramid_flow_vae", vae_outputs),
    "pyramid_flow_flux": Case("pyramid_flow_flux", denoiser_outputs),
    "pyramid_flow_mmdit": Case("pyramid_flow_mmdit", denoiser_outputs),
    "cogvideox_2b_transformer": Case("cogvideox_2b_transformer", cogvideox_outputs),
    "cogvideox_5b_transformer": Case("cogvideox_5b_transformer", cogvideox_outputs),
    "cogvideox_vae": Case("cogvideox_vae", cogvideox_vae_outputs),
    "wan2_1_t2v_1_3b_transformer": Case("wan2_1_t2v_1_3b_transformer", wan_outputs),
    "wan2_1_t2v_14b_transformer": Case("wan2_1_t2v_14b_transformer", wan_outputs),
    "causal_wan_transformer": Case("causal_wan_1_3b", causal_wan_outputs, _recorded_causal_wan()),
    "wan_vae": Case("wan_vae", wan_vae_outputs),
    "wan_original_transformer": Case(
        "wan2_1_t2v_1_3b_transformer", wan_outputs, COMPONENTS["wan2_1_t2v_1_3b_original"]
    ),
    "wan_original_vae": Case("wan_vae", wan_vae_outputs, COMPONENTS["wan_vae_original"]),
    "wan_original_umt5": Case(
        "umt5_xxl_encoder", t5_outputs, COMPONENTS["umt5_xxl_encoder_original"]
    ),
    "nova_transformer": Case("nova_d48w1024_osp480", nova_outputs),
    "nova_vae": Case("nova_vae", nova_vae_outputs),
    "open_sora_stdit3": Case("open_sora_stdit3_xl2", open_sora_outputs),
    "open_sora_vae": Case("open_sora_vae", open_sora_vae_outputs),
    "nova_text_encoder_phi2": Case("nova_text_encoder_phi2", phi_outputs),
    "latte_1_transformer": Case("latte_1_transformer", latte_outputs),
    "stable_diffusion_vae": Case("stable_diffusion_vae", frame_vae_outputs),
    "t5_v1_1_xxl_encoder": Case("t5_v1_1_xxl_encoder", t5_outputs),
    "umt5_xxl_encoder": Case("umt5_xxl_encoder", t5_outputs),
    "clip_l_text": Case("clip_l_text", clip_text_outputs),
    "open_clip_bigg_text": Case("open_clip_bigg_text", clip_text_outputs),
}
CASES: dict[str, tuple[Case, ...]] = {
    **{name: (case,) for name, case in _SINGLE.items()},
    "clip_readouts": (
        Case("clip_vit_large_patch14", clip_outputs),
        Case("clip_l_vision", tower_outputs),
        _head("linear"),
        _head("mlp"),
    ),
}
