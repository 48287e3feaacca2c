"""NOVA as a chain of segments: latent frames, or parts of them that end at token sets.

n passes of guidance  T latent frames  H W latent size  C channels  L text tokens  D width
N tokens of a frame  M condition tokens of one  S places of the cache
"""

import dataclasses
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from tts_jax.generators.finished import Finished
from tts_jax.generators.networks import read_parts
from tts_jax.generators.nova import sampler as nova
from tts_jax.generators.nova.sampler import Condition, Frame, Plan, SamplerConfig
from tts_jax.generators.nova.transformer import (
    Cache,
    Transformer,
    TransformerConfig,
    patchify,
    unpatchify,
)
from tts_jax.generators.nova.vae import CausalVideoVAE, VAEConfig
from tts_jax.generators.protocol import Look, Params
from tts_jax.generators.pyramid_flow import vae as pyramid_flow
from tts_jax.generators.pyramid_flow.vae import LatentFactors
from tts_jax.language.clip_text import TextConfig, TextTower
from tts_jax.language.phi import PhiConfig, PhiEncoder, PhiTokenizer
from tts_jax.language.tokenizer import Tokenizer, open_tokenizer
from tts_jax.nn.autoencoder import posterior_sample
from tts_jax.solvers import noise
from tts_jax.solvers.noise import NOISE_TAG, Key


@dataclass(frozen=True, kw_only=True)
class NovaConfig:
    """The parts of a generator.

    Attributes:
      transformer: the networks.
      vae: the decoder of latents, NOVA's own or Pyramid-Flow's.
      sampler: how a video is sampled.
      phi, text: the text encoder, one of them: Phi-2 as published, or a small tower.
      latent_factors: from the VAE's latents to the transformer's, if it takes more than a scale.
    """

    transformer: TransformerConfig
    vae: VAEConfig | pyramid_flow.VAEConfig
    sampler: SamplerConfig
    phi: PhiConfig | None = None
    text: TextConfig | None = None
    latent_factors: LatentFactors | None = None

    def __post_init__(self):
        vae, transformer = self.vae, self.transformer
        if (self.phi is None) == (self.text is None):
            raise ValueError("there is one text encoder, phi or text")
        if self.latent_factors is None and not isinstance(vae, VAEConfig):
            raise ValueError("Pyramid-Flow's VAE needs latent_factors")
        if vae.latent_channels != transformer.latent_channels:
            raise ValueError(
                f"the VAE has {vae.latent_channels} latent channels, "
                f"the transformer {transformer.latent_channels}"
            )
        if transformer.text_width != self.encoder.width:
            raise ValueError(
                f"the text encoder is {self.encoder.width} wide, "
                f"the transformer wants {transformer.text_width}"
            )
        _ = self.plan  # refuses more segments than steps

    @property
    def encoder(self) -> PhiConfig | TextConfig:
        """The text encoder."""
        return self.phi or self.text

    @property
    def encoder_name(self) -> str:
        """The part that the text encoder is."""
        return "text" if self.phi is None else "phi"

    @property
    def factors(self) -> LatentFactors:
        """From the VAE's latents to the transformer's."""
        if self.latent_factors is not None:
            return self.latent_factors
        scale = self.vae.scale
        return LatentFactors(first_shift=0.0, first_scale=scale, shift=0.0, scale=scale)

    @cached_property
    def plan(self) -> Plan:
        """The steps of a frame."""
        return Plan.of(self.sampler, self.transformer.tokens)

    @property
    def latent_shape(self) -> tuple[int, int, int, int]:
        """T, H, W, C of a video's latents."""
        transformer = self.transformer
        height, width = transformer.height, transformer.latent_width
        return self.sampler.frames, height, width, transformer.latent_channels

    @property
    def places(self) -> int:
        """S, of a cache for a whole video."""
        frames = self.sampler.frames * self.transformer.condition_tokens
        return self.transformer.prompt_tokens + frames

    def open_tokenizers(self, folder: Path) -> dict[str, Tokenizer]:
        """The tokenizers of a checkpoint folder, by part.

        Raises:
          Exception: a file is missing or damaged; of any type.
        """
        length = self.transformer.text_length
        if (folder / "tokenizer.json").is_file():
            return {self.encoder_name: open_tokenizer(folder / "tokenizer.json", length)}
        return {self.encoder_name: PhiTokenizer(folder / "tokenizer", length)}

    @classmethod
    def d48w1024_osp480(cls) -> "NovaConfig":
        """nova-d48w1024-osp480."""
        return cls(
            phi=PhiConfig.phi_2(),
            transformer=TransformerConfig.d48w1024_osp480(),
            vae=VAEConfig.published(),
            sampler=SamplerConfig(),
        )

    @classmethod
    def from_json(cls, fields: Mapping) -> "NovaConfig":
        """Reads the "generator" entry of a checkpoint's `config.json`.

        Raises:
          TypeError: an unknown or a missing field.
        """
        causal = "encoder_channels" in (fields.get("vae") or {})
        needed = {
            "transformer": TransformerConfig,
            "vae": pyramid_flow.VAEConfig if causal else VAEConfig,
            "sampler": SamplerConfig,
        }
        optional = {"phi": PhiConfig, "text": TextConfig, "latent_factors": LatentFactors}
        return cls(**read_parts(fields, needed, optional))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Branch:
    """A partial video.

    Attributes:
      latents: finished frames and the tokens of the one in progress, zeros where nothing is yet,
        [T, H, W, C] float32.
      order: the order of tokens, [N] int32; where siblings differ by it, of the last frame.
      root: data of the key that all branches share.
      first: the video encoder's features of frame 0, [n, M, D].
      cache: its keys and values of the frames it has read; without a cache, no places.
      condition, features: of the frame in progress, [n, M, D] and [n, N, D]; [n, 0, D] if segments
        are frames.
    """

    latents: Array
    order: Array
    root: Array
    first: Array
    cache: Cache
    condition: Array
    features: Array


class Nova(Finished):
    """The generator protocol over NOVA; see `tts_jax.generators.protocol.Generator`.

    A denoiser call is one of the image encoder, with the diffusion of a set that follows it; the
    patch decoder's own calls work on a set's tokens alone and take a few percent of the operations.
    """

    name = "nova"
    not_noisy = "segments end in finished tokens, which have nothing noisy to go on from"

    def __init__(self, config: NovaConfig, tokenizers: Mapping[str, Tokenizer]):
        """Builds the graphs; allocates no parameters.

        Args:
          config: sizes and settings.
          tokenizers: of the text encoder's part, which gives rows of
            `config.transformer.text_length` tokens.
        """
        self.config = config
        self.tokenizers = tokenizers
        self.tokenizer = tokenizers[config.encoder_name]

    @property
    def text_parts(self) -> tuple[str, ...]:
        """Parts that `encode` alone uses."""
        return ("phi",)

    @property
    def networks(self) -> dict:
        """The module and the config of every part."""
        config, own = self.config, isinstance(self.config.vae, VAEConfig)
        return {
            config.encoder_name: (PhiEncoder if config.phi else TextTower, config.encoder),
            "transformer": (Transformer, config.transformer),
            "vae": (CausalVideoVAE if own else pyramid_flow.CausalVideoVAE, config.vae),
        }

    @property
    def units(self) -> tuple[int, ...]:
        """Segments of each frame."""
        return (self._parts,) * self.config.sampler.frames

    @property
    def _parts(self) -> int:
        return self.config.sampler.segments_per_frame

    @property
    def _passes(self) -> int:
        return self.config.sampler.passes.count

    @property
    def _caches(self) -> bool:
        return self.config.sampler.cache and self.config.sampler.frames > 1

    def _model(self, params: Params) -> Transformer:
        return self.network(params, "transformer")

    @cached_property
    def _encode_tokens(self):
        sampler = self.config.sampler

        def encode(params, tokens, mask):
            model = self._model(params)
            states = self.read_tokens(params, tokens)
            motion = (jnp.full(len(tokens), x, jnp.float32) for x in (sampler.flow, sampler.rate))
            prompts = model.embed_prompt(model.text.pad(states, mask), *motion)
            return sampler.passes.expand(prompts)

        return jax.jit(encode)

    def read_tokens(self, params: Params, tokens: Array) -> Array:
        """States of the text encoder, [B, L] -> [B, L, D_text]."""
        states = self.network(params, self.config.encoder_name)(tokens)
        return states[0] if self.config.phi is None else states

    def encode_prompt(self, params: Params, prompt: str) -> Condition:
        """Tokens of a prompt and of what guides away from it, and the guidance of each step."""
        sampler = self.config.sampler
        tokens, mask = self.tokenizer.tokenize([prompt, sampler.negative_prompt])
        if not sampler.negative_prompt:  # the table's rows alone
            mask = np.stack([mask[0], np.zeros_like(mask[1])])
        embedded = self._encode_tokens(params, jnp.asarray(tokens), jnp.asarray(mask))
        return Condition(embedded, jnp.asarray(nova.scales(sampler, self.config.plan)))

    def init(self, params: Params, condition: Condition, key: Array) -> Branch:
        """A branch without a frame; see the protocol."""
        config, model = self.config.transformer, self._model(params)
        heads = config.video_heads, config.width // config.video_heads
        places = self.config.places if self._caches else 0
        blocks = config.video_layers, self._passes, places, *heads
        dtype = condition.prompt.dtype
        held = (config.condition_tokens, config.tokens) if self._parts > 1 else (0, 0)
        base = noise.fold_in(key, NOISE_TAG)
        tokens = model.config.tokens

        def zeros(count):
            return jnp.zeros((self._passes, count, config.width), dtype)

        return Branch(
            latents=jnp.zeros(self.config.latent_shape),
            order=_shuffle(noise.fold_in(base, 0), jnp.arange(tokens, dtype=jnp.int32)),
            root=_data(base),
            first=zeros(config.condition_tokens),
            cache=Cache(jnp.zeros(blocks, dtype), jnp.zeros(blocks, dtype)),
            condition=zeros(held[0]),
            features=zeros(held[1]),
        )

    def advance(
        self,
        params: Params,
        condition: Condition,
        branch: Branch,
        key: Key,
        segment: int | Array,
        program: Hashable = None,
    ) -> Branch:
        """Adds a frame, or some of its sets; see the protocol.

        What the first set is sampled from depends on the parent alone; siblings share it.

        Raises:
          ValueError: a traced segment whose program is not given and not the only one.
        """
        if isinstance(segment, int | np.integer):
            segment, program = int(segment), self.program(int(segment))
        if program is None:
            programs = {self.program(s) for s in range(1, self.num_segments)}
            if len(programs) > 1:
                raise ValueError(f"a traced segment may be of {len(programs)} programs; name one")
            (program,) = programs
        first, part = program
        sampler, plan, size = self.config.sampler, self.config.plan, self.config.transformer
        model, index = self._model(params), segment // self._parts
        base = noise.fold_in(key, NOISE_TAG)
        order, known = branch.order, int(plan.starts[plan.segments[part]])
        if sampler.fork != "tokens":
            left = _shuffle(noise.fold_in(base, 0), order[known:])
            order = jnp.concatenate([order[:known], left])
        if sampler.fork == "order":
            base = noise.fold_in(jax.random.wrap_key_data(branch.root), 1 + index)
        if part:
            canvas = jax.lax.dynamic_index_in_dim(branch.latents, index, keepdims=False)
            tokens = patchify(canvas, size.patch)
            frame = Frame(tokens, order, branch.condition, branch.features)
        else:
            branch, tokens = self._read(model, condition, branch, index, first)
            frame = nova.start_frame(model, tokens, order)

        def draw(step, place):
            shape = size.tokens, size.patch_channels
            return noise.normal(noise.fold_in(noise.fold_in(base, 1 + step), place), shape)

        groups = plan.groups(part)
        frame = nova.fill(model, sampler, plan, groups, frame, condition.guidance, draw)
        made = unpatchify(frame.tokens, size.patch, size.grid)
        held = {}
        if self._parts > 1:
            held = dict(condition=frame.condition, features=frame.features)
        return dataclasses.replace(
            branch,
            latents=jax.lax.dynamic_update_index_in_dim(branch.latents, made, index, 0),
            order=order,
            **held,
        )

    def _read(
        self, model: Transformer, condition: Condition, branch: Branch, index, first: bool
    ) -> tuple[Branch, Array]:
        """Lets the video encoder read the frame before; also gives a frame's condition tokens."""
        sampler, prompt = self.config.sampler, condition.prompt
        if first:
            size = self.config.transformer
            places = size.prompt_tokens + size.condition_tokens
            places = self.config.places if self._caches else places
            features, cache = nova.first_frame(model, sampler, prompt, places)
            cache = cache if self._caches else branch.cache
            return dataclasses.replace(branch, first=features, cache=cache), features
        if self._caches:
            features, cache = nova.next_frame(
                model, sampler, prompt, branch.latents, index, branch.cache
            )
            branch = dataclasses.replace(branch, cache=cache)
        else:
            features = nova.all_frames(model, sampler, prompt, branch.latents)
            features = jax.lax.dynamic_index_in_dim(features, index, axis=1, keepdims=False)
        return branch, model.video.mix(branch.first, features)

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width of a frame, pixels."""
        factor, (_, height, width, _) = self.config.vae.spatial_factor, self.config.latent_shape
        return height * factor, width * factor

    def begin_with_image(
        self, params: Params, condition: Condition, branch: Branch, moments: Array, key: Key
    ) -> Branch:
        """A branch whose frame 0 is a draw from an image's latents instead of a sample.

        Args:
          params: the model's parameters.
          condition: of the prompt.
          branch: of `init`.
          moments: of `encode_frames` for the image, [1, h, w, 2C].
          key: of the draw.
        """
        fresh = noise.normal(key, branch.latents.shape[1:])
        frame = self.config.factors.to_model(posterior_sample(moments[0], fresh)[None])[0]
        branch, _ = self._read(self._model(params), condition, branch, 0, True)
        return dataclasses.replace(branch, latents=branch.latents.at[0].set(frame))

    def estimate(
        self,
        params: Params,
        condition: Condition,
        branch: Branch,
        segment: int,
        look: Look = "committed",
    ) -> Array:
        """Latents of the frames up to and with `segment`'s; see the protocol.

        A frame in progress is left out of what is committed. Its clean estimate samples all missing
        tokens at once, from the features it has and from noise that is the same for all branches.

        Returns:
          [T', H, W, C], T' the number of frames.

        Raises:
          ValueError: nothing is committed yet.
        """
        config, plan = self.config.transformer, self.config.plan
        index, part = divmod(segment + 1, self._parts)
        if not part:
            return branch.latents[:index]
        if look == "committed":
            if not index:
                raise ValueError(f"no frame is committed after segment {segment}")
            return branch.latents[:index]
        shape = config.tokens, config.patch_channels
        base = jax.random.key(0)

        def draw(step, place):
            return noise.normal(noise.fold_in(base, place), shape)

        tokens = patchify(branch.latents[index], config.patch)
        frame = Frame(tokens, branch.order, branch.condition, branch.features)
        step = plan.segments[part]
        tokens = nova.complete(
            self._model(params),
            self.config.sampler,
            frame,
            int(plan.starts[step]),
            condition.guidance[step],
            draw,
        )
        made = unpatchify(tokens, config.patch, config.grid)
        return jnp.concatenate([branch.latents[:index], made[None]])

    def draft(self) -> "Nova | None":
        """The generator with fewer steps; None if there are no fewer."""
        sampler = self.config.sampler
        sampler = dataclasses.replace(
            sampler,
            steps=min(sampler.steps, sampler.draft_steps),
            diffusion_steps=min(sampler.diffusion_steps, sampler.draft_diffusion_steps),
        )
        plan = Plan.of(dataclasses.replace(sampler, segments_per_frame=1), self._tokens)
        if len(plan.sizes) < self._parts:
            return None
        draft = Nova(dataclasses.replace(self.config, sampler=sampler), self.tokenizers)
        segments = range(self.num_segments)
        cheaper = sum(map(draft.nfe, segments)) < sum(map(self.nfe, segments))
        return draft if cheaper else None

    @property
    def _tokens(self) -> int:
        return self.config.transformer.tokens

    def encode_frames(self, params: Params, frames: Array) -> Array:
        """Posterior moments of frames, [T, H, W, 3] in [0, 1] -> [T', h, w, 2C]."""
        vae = self.network(params, "vae")
        return vae.encode(frames[None] * 2 - 1)[0]

    def decode(self, params: Params, latents: Array) -> Array:
        """Frames of latents, [T, H, W, C] -> [1 + 4(T-1), 8H, 8W, 3], float32 in [0, 1].

        The last latent frame fills a window that would be dropped; what it shows is left out.
        """
        vae, count = self.network(params, "vae"), len(latents)
        padding = self.config.vae.whole_windows(count) - count
        latents = jnp.concatenate([latents, *[latents[-1:]] * padding])
        pixels = vae.decode(self.config.factors.to_vae(latents)[None])[0]
        shown = 1 + self.config.vae.temporal_factor * (count - 1)
        return jnp.clip(pixels[:shown] * 0.5 + 0.5, 0.0, 1.0)

    def nfe(self, segment: int) -> int:
        """Image encoder calls of one segment, of all passes."""
        return self.config.plan.calls(segment % self._parts) * self._passes

    def program(self, segment: int) -> Hashable:
        """Whether it begins the video, and which part of a frame it is."""
        return segment == 0, segment % self._parts


def _shuffle(key: Key, places: Array) -> Array:
    """Places in random order, [k]."""
    return places[jnp.argsort(noise.normal(key, places.shape))]


def _data(key: Key) -> Array:
    first = key.keys[0] if isinstance(key, noise.Chain) else key
    return jax.random.key_data(first)
