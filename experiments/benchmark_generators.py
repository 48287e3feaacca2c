r"""Measures the networks of the published generators beside the PyTorch originals.

python -m experiments.benchmark_generators
python -m experiments.benchmark_generators --network=t5 --size=mid --repetitions=9 --output=FILE
python -m experiments.benchmark_generators --nospeed --nocompilation

Prints, and writes to --output as JSON:
- The time of a warm forward call, ours and the original's in turns, on the same weights and inputs,
  float32, in this process with as many threads; and by how much their outputs differ. The originals
  are those of diffusers and transformers. Pyramid-Flow's own classes are in no package: without a
  history its denoisers compute what Flux and Stable Diffusion 3 do, and stand beside those; its
  VAE stands alone.
- The processor time to compile a network of few layers and of many.
- The memory that decoding a published video takes beside weights, input and output, whole and in
  pieces; as the compiler lays it out, with nothing allocated.

Other work on the machine slows both sides: the ratio is that of the least times.
"""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from flax import nnx
from jax.experimental.compilation_cache import compilation_cache
from rich import box
from rich.console import Console
from rich.table import Table

from converters import cli, cogvideox, pyramid_flow
from converters.clip import CLIP_TEXT_IGNORED, CLIP_TEXT_RULES
from converters.core import Rules, convert
from converters.t5 import IGNORED, T5_RULES
from tts_jax import media
from tts_jax.checkpoints import abstract_params
from tts_jax.generators.cogvideox import transformer as cogvideox_transformer
from tts_jax.generators.cogvideox import vae as cogvideox_vae
from tts_jax.generators.pyramid_flow import vae as pyramid_flow_vae
from tts_jax.generators.pyramid_flow.mmdit import MMDiT, MMDiTConfig
from tts_jax.generators.pyramid_flow.transformer import Transformer, TransformerConfig
from tts_jax.language.clip_text import TextConfig, TextTower
from tts_jax.language.t5 import T5Config, T5Encoder

SIZES = ("tiny", "mid")  # mid: about 100 million parameters


@dataclass(frozen=True)
class Network:
    """A network of ours, and perhaps the original on the same weights.

    Attributes:
      graph, params: ours; params may be abstract.
      call: runs our module on the inputs.
      inputs: arrays, or shapes and types.
      original: runs the original on the same inputs, or None; gives an array laid out like ours.
    """

    graph: nnx.GraphDef
    params: dict
    call: Callable
    inputs: tuple
    original: Callable[[], np.ndarray] | None = None

    @property
    def parameters(self) -> int:
        """Their number."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.params))

    def compile(self) -> jax.stages.Compiled:
        """Our forward call, as `compiled(params, *inputs)`."""

        def forward(params, *inputs):
            return self.call(nnx.merge(self.graph, params), *inputs)

        return jax.jit(forward).lower(self.params, *self.inputs).compile()


def _abstract(model: Callable, config, call: Callable, *inputs) -> Network:
    return Network(*abstract_params(model, config), call, inputs)


def _apply(model: nnx.Module, *inputs):
    return model(*inputs)


def _draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape, np.float32)


def _random_tokens(vocabulary: int, length: int) -> np.ndarray:
    tokens = np.random.default_rng(length).integers(3, vocabulary - 1, (1, length), np.int32)
    tokens[:, -1] = vocabulary - 1
    return tokens


def _randomise(model):
    """Draws every parameter of a torch module, also those that begin as zeros or ones."""
    import torch

    torch.manual_seed(0)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            norm = "norm" in name and tensor.ndim == 1 and name.endswith("weight")
            fan = tensor[0].numel() if tensor.ndim > 1 else 25
            tensor.normal_(1.0 if norm else 0.0, fan**-0.5)
    return model


def _paired(
    original,
    model: Callable,
    config: Any,
    rules: Rules,
    ignored: Mapping[str, str],
    call: Callable,
    inputs: tuple,
    run: Callable,
    rename: Mapping[str, str] | None = None,
) -> Network:
    """Our network with the weights of an original.

    Args:
      original: a torch module with random weights.
      model, config: our module and its config.
      rules, ignored: the conversion table.
      call: runs our module on `inputs`.
      inputs: arrays.
      run: runs the original on them and gives a tensor laid out like ours.
      rename: parts of the original's names to what the table calls them.
    """
    import torch

    original.eval()
    tensors = {name: tensor.numpy() for name, tensor in original.state_dict().items()}
    for old, new in (rename or {}).items():
        tensors = {name.replace(old, new): tensor for name, tensor in tensors.items()}
    graph, like = abstract_params(model, config)
    params = jax.tree.map(jnp.asarray, convert(tensors, like, rules, ignored))

    def run_original() -> np.ndarray:
        with torch.inference_mode():
            return run(original, *(torch.from_numpy(x) for x in inputs)).numpy()

    return Network(graph, params, call, tuple(map(jnp.asarray, inputs)), run_original)


def _cogvideox_transformer(size: str, *, rotary: bool) -> Network:
    from diffusers import CogVideoXTransformer3DModel
    from diffusers.models.embeddings import get_3d_rotary_pos_embed

    heads, layers, text, shape = {
        "tiny": (2, 2, 8, (2, 8, 12)),
        "mid": (12, 9, 64, (2, 20, 24)),
    }[size]
    original = CogVideoXTransformer3DModel(
        num_attention_heads=heads,
        attention_head_dim=64,
        num_layers=layers,
        text_embed_dim=64 * heads,
        time_embed_dim=512,
        sample_frames=4 * shape[0] - 3,
        sample_height=shape[1],
        sample_width=shape[2],
        max_text_seq_length=text,
        use_rotary_positional_embeddings=rotary,
    )
    config = cogvideox_transformer.TransformerConfig.from_reference(original.config)
    grid = shape[1] // 2, shape[2] // 2
    table = get_3d_rotary_pos_embed(64, ((0, 0), grid), grid, shape[0]) if rotary else None

    def run(model, latents, text, time):
        inputs = latents.permute(0, 1, 4, 2, 3), text, time
        return model(*inputs, image_rotary_emb=table).sample.permute(0, 1, 3, 4, 2)

    return _paired(
        _randomise(original),
        cogvideox_transformer.Transformer,
        config,
        cogvideox.TRANSFORMER_RULES,
        {},
        _apply,
        (_draw(1, *shape, 16), _draw(1, text, 64 * heads), np.array([500.0], np.float32)),
        run,
    )


def _cogvideox_vae(size: str, *, method: str) -> Network:
    from diffusers import AutoencoderKLCogVideoX

    channels, layers, side = {
        "tiny": ((8, 8, 16, 16), 1, 2),
        "mid": ((96, 192, 192, 384), 3, 4),
    }[size]
    original = AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=channels,
        layers_per_block=layers,
        norm_num_groups=min(channels[0], 32),
    )
    config = cogvideox_vae.VAEConfig.from_reference(original.config)

    def run(model, x):
        x = x.permute(0, 4, 1, 2, 3)
        if method == "encode":
            found = model.encode(x).latent_dist.parameters
        else:
            found = model.decode(x).sample
        return found.permute(0, 2, 3, 4, 1)

    shape = (3, side, side, 16) if method == "decode" else (9, 8 * side, 8 * side, 3)
    return _paired(
        _randomise(original),
        cogvideox_vae.CausalVideoVAE,
        config,
        cogvideox.VAE_RULES,
        {},
        lambda model, x: getattr(model, method)(x),
        (_draw(1, *shape),),
        run,
    )


def _t5(size: str) -> Network:
    from transformers import T5Config as PublishedConfig
    from transformers import T5EncoderModel

    heads, layers, vocabulary, length = {"tiny": (2, 2, 64, 16), "mid": (12, 12, 32128, 128)}[size]
    published = PublishedConfig(
        vocab_size=vocabulary,
        d_model=64 * heads,
        d_kv=64,
        d_ff=160 * heads,
        num_heads=heads,
        num_layers=layers,
        feed_forward_proj="gated-gelu",
    )
    config = T5Config.from_reference(published.to_dict())
    return _paired(
        T5EncoderModel(published),
        T5Encoder,
        config,
        T5_RULES,
        IGNORED,
        _apply,
        (_random_tokens(vocabulary, length),),
        lambda model, tokens: model(tokens).last_hidden_state,
    )


def _clip_text(size: str) -> Network:
    from transformers import CLIPTextConfig, CLIPTextModel

    heads, layers, vocabulary, length = {"tiny": (2, 2, 64, 16), "mid": (12, 12, 49408, 77)}[size]
    published = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=64 * heads,
        intermediate_size=256 * heads,
        num_attention_heads=heads,
        num_hidden_layers=layers,
        max_position_embeddings=length,
        eos_token_id=vocabulary - 1,
    )
    fields = {**published.to_dict(), "architectures": [CLIPTextModel.__name__]}
    config = TextConfig.from_reference(fields)
    return _paired(
        CLIPTextModel(published),
        TextTower,
        config,
        CLIP_TEXT_RULES,
        CLIP_TEXT_IGNORED,
        lambda model, tokens: model(tokens)[0],
        (_random_tokens(vocabulary, length),),
        lambda model, tokens: model(tokens).last_hidden_state,
    )


def _denoiser_inputs(shape: Sequence[int], text: int, widths: tuple[int, int]) -> tuple:
    """Latents, text states, pooled text and time of a first frame."""
    return (
        _draw(1, *shape, 16),
        _draw(1, text, widths[0]),
        _draw(1, widths[1]),
        np.array([500.0], np.float32),
    )


def _denoise(model, latents, text, pooled, time):
    """Our Pyramid-Flow denoisers on a first frame, whose tokens and the text's see each other."""
    mask = jnp.ones(text.shape[:2], bool)
    return model(latents, jnp.zeros(1), (), text, mask, pooled, time)


def _pyramid_flow_flux(size: str) -> Network:
    from diffusers import FluxTransformer2DModel

    heads, double, single, text, shape = {
        "tiny": (2, 1, 1, 8, (1, 8, 12)),
        "mid": (12, 2, 6, 64, (1, 30, 32)),
    }[size]
    original = FluxTransformer2DModel(
        in_channels=64,
        num_layers=double,
        num_single_layers=single,
        attention_head_dim=64,
        num_attention_heads=heads,
        joint_attention_dim=64 * heads,
        pooled_projection_dim=64,
        axes_dims_rope=(16, 24, 24),
    )
    config = TransformerConfig.from_reference(original.config)
    rows, columns = shape[1] // 2, shape[2] // 2

    def run(model, latents, text, pooled, time):
        import torch

        tokens = latents.reshape(1, rows, 2, columns, 2, 16).permute(0, 1, 3, 2, 4, 5)
        places = torch.cartesian_prod(*(torch.arange(n) for n in (1, rows, columns)))
        found = model(
            tokens.reshape(1, rows * columns, 64),
            text,
            pooled,
            time / 1000,
            places.float(),
            torch.zeros(text.shape[1], 3),
        ).sample
        found = found.reshape(1, rows, columns, 2, 2, 16).permute(0, 1, 3, 2, 4, 5)
        return found.reshape(1, *shape, 16)

    return _paired(
        _randomise(original),
        Transformer,
        config,
        pyramid_flow.FLUX_RULES,
        {},
        _denoise,
        _denoiser_inputs(shape, text, (64 * heads, 64)),
        run,
    )


def _pyramid_flow_mmdit(size: str) -> Network:
    from diffusers import SD3Transformer2DModel

    heads, blocks, text, shape = {"tiny": (2, 2, 8, (1, 8, 12)), "mid": (12, 5, 64, (1, 30, 32))}[
        size
    ]
    original = SD3Transformer2DModel(
        sample_size=128,
        in_channels=16,
        num_layers=blocks,
        attention_head_dim=64,
        num_attention_heads=heads,
        joint_attention_dim=64 * heads,
        caption_projection_dim=64 * heads,
        pooled_projection_dim=64,
        out_channels=16,
        pos_embed_max_size=64,
        qk_norm="rms_norm",
    )
    config = MMDiTConfig.from_reference(original.config)

    def run(model, latents, text, pooled, time):
        found = model(latents[:, 0].permute(0, 3, 1, 2), text, pooled, time).sample
        return found.permute(0, 2, 3, 1)[:, None]

    return _paired(
        _randomise(original),
        MMDiT,
        config,
        pyramid_flow.mmdit_rules(blocks),
        {},
        _denoise,
        _denoiser_inputs(shape, text, (64 * heads, 64)),
        run,
        rename={"norm_added_": "norm_add_"},
    )


def _pyramid_flow_vae(size: str, *, method: str) -> Network:
    channels, layers, side = {
        "tiny": ((8, 8, 16, 16), 1, 2),
        "mid": ((96, 160, 288, 288), 2, 4),
    }[size]
    resampled = (True, True, True, False)
    config = pyramid_flow_vae.VAEConfig(
        latent_channels=16,
        encoder_channels=channels,
        encoder_layers=(layers,) * 4,
        encoder_spatial_down=resampled,
        encoder_temporal_down=resampled,
        encoder_groups=min(channels[0], 32),
        decoder_channels=channels,
        decoder_layers=(layers,) * 4,
        decoder_spatial_up=resampled,
        decoder_temporal_up=resampled,
        decoder_groups=min(channels[0], 32),
    )
    graph, like = abstract_params(pyramid_flow_vae.CausalVideoVAE, config)
    params = jax.tree.map(lambda leaf: jnp.asarray(_draw(*leaf.shape)) * leaf.size**-0.5, like)
    shape = (2, side, side, 16) if method == "decode" else (9, 8 * side, 8 * side, 3)
    inputs = (jnp.asarray(_draw(1, *shape)),)
    return Network(graph, params, lambda model, x: getattr(model, method)(x), inputs)


NETWORKS: dict[str, Callable[[str], Network]] = {
    "pyramid_flow_flux": _pyramid_flow_flux,
    "pyramid_flow_mmdit": _pyramid_flow_mmdit,
    "pyramid_flow_vae_encode": lambda size: _pyramid_flow_vae(size, method="encode"),
    "pyramid_flow_vae_decode": lambda size: _pyramid_flow_vae(size, method="decode"),
    "cogvideox_2b": lambda size: _cogvideox_transformer(size, rotary=False),
    "cogvideox_5b": lambda size: _cogvideox_transformer(size, rotary=True),
    "cogvideox_vae_encode": lambda size: _cogvideox_vae(size, method="encode"),
    "cogvideox_vae_decode": lambda size: _cogvideox_vae(size, method="decode"),
    "t5": _t5,
    "clip_text": _clip_text,
}


def measure_speed(network: Network, repetitions: int) -> dict:
    """Times of forward calls, ours and the original's in turns, after one that is not counted.

    Args:
      network: what to run.
      repetitions: timed calls of each.

    Returns:
      `parameters`; for `ours`, and for `original` if there is one, `least` and `median` seconds;
      then also `ratio`, our least time over the original's, and `error`, the largest difference of
      the outputs over the original's largest value.
    """
    compiled = network.compile()
    runs = {"ours": lambda: np.asarray(compiled(network.params, *network.inputs))}
    if network.original is not None:
        runs["original"] = network.original
    outputs = {name: run() for name, run in runs.items()}
    seconds = {name: [] for name in runs}
    for _ in range(repetitions):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    figures = {
        name: {"least": min(found), "median": statistics.median(found)}
        for name, found in seconds.items()
    }
    if network.original is not None:
        wanted = outputs["original"]
        if outputs["ours"].shape != wanted.shape:
            raise ValueError(f"shapes differ: {outputs['ours'].shape} and {wanted.shape}")
        figures["ratio"] = figures["ours"]["least"] / figures["original"]["least"]
        figures["error"] = float(np.abs(outputs["ours"] - wanted).max() / np.abs(wanted).max())
    return {"parameters": network.parameters, **figures}


def _shape(*sizes: int, dtype=jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(sizes, dtype)


def _denoiser_shapes(text: int, width: int) -> tuple:
    return _shape(1, 1, 8, 8, 16), _shape(1, text, width), _shape(1, width), _shape(1)


def _layered(layers: int) -> dict[str, Network]:
    """Abstract networks of so many layers, narrow: their width hardly matters to the compiler."""
    sizes = {"heads": 2, "head_size": 64, "latent_channels": 16, "text_width": 64}
    cogvideo = cogvideox_transformer.TransformerConfig(
        **sizes, layers=layers, time_width=64, rotary=True
    )
    flux = TransformerConfig(
        **sizes,
        pooled_width=64,
        double_blocks=layers // 2,
        single_blocks=layers - layers // 2,
        rope_axes=(16, 24, 24),
    )
    mmdit = MMDiTConfig(**sizes, pooled_width=64, blocks=layers, table_size=16, base_size=16)
    t5 = T5Config(vocabulary=64, width=64, heads=2, head_size=64, layers=layers, mlp=160)
    clip = TextConfig(vocabulary=64, length=16, width=64, heads=2, layers=layers, mlp=256)
    tokens, shapes = _shape(1, 16, dtype=jnp.int32), _denoiser_shapes(16, 64)
    return {
        "pyramid_flow_flux": _abstract(Transformer, flux, _denoise, *shapes),
        "pyramid_flow_mmdit": _abstract(MMDiT, mmdit, _denoise, *shapes),
        "cogvideox_5b": _abstract(
            cogvideox_transformer.Transformer,
            cogvideo,
            _apply,
            _shape(1, 2, 8, 8, 16),
            _shape(1, 16, 64),
            _shape(1),
        ),
        "t5": _abstract(T5Encoder, t5, _apply, tokens),
        "clip_text": _abstract(TextTower, clip, _apply, tokens),
    }


@contextmanager
def uncached() -> Iterator[None]:
    """Compiles everything anew."""
    enabled = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", enabled)
        compilation_cache.reset_cache()


def measure_compilation(names: Sequence[str], layers: Sequence[int], repetitions: int) -> dict:
    """Least processor seconds to trace and compile, by network and number of layers, in turns."""
    networks = {count: _layered(count) for count in layers}
    found = {}
    with uncached():
        for name in names:
            if name not in networks[layers[0]]:
                continue
            seconds = {count: [] for count in layers}
            for _ in range(repetitions):
                for count in layers:
                    jax.clear_caches()
                    start = time.process_time()
                    networks[count][name].compile()
                    seconds[count].append(time.process_time() - start)
            found[name] = {count: min(times) for count, times in seconds.items()}
    return found


def measure_memory(sizes: Mapping[str, Network]) -> dict:
    """Bytes that the compiler reserves for what is neither an argument nor a result."""
    return {
        name: network.compile().memory_analysis().temp_size_in_bytes
        for name, network in sizes.items()
    }


def decoders(small: bool = False) -> dict[str, Network]:
    """Decoding a video of a published configuration, whole and in pieces; abstract.

    Args:
      small: whether the videos have a few tiles only.
    """
    pyramid = pyramid_flow_vae.CausalVideoVAE, pyramid_flow_vae.VAEConfig.published()
    cogvideo = cogvideox_vae.CausalVideoVAE, cogvideox_vae.VAEConfig.cogvideox_5b()
    tall, wide = (4, 40) if small else (16, 80)
    video = _shape(1, tall, 3 * wide // 5, wide, 16)

    frames, side = (3, 45) if small else (13, 90)
    clip = _shape(1, frames, 2 * side // 3, side, 16)
    calls = {
        "pyramid_flow, whole": (*pyramid, lambda vae, z: vae.decode(z), video),
        "pyramid_flow, windows of 1": (
            *pyramid,
            lambda vae, z: vae.decode_chunked(z, 1),
            video,
        ),
        "pyramid_flow, tiles of 256, windows of 1": (
            *pyramid,
            lambda vae, z: vae.decode_tiled(z, 256, 1),
            video,
        ),
        "cogvideox, windows of 2": (*cogvideo, lambda vae, z: vae.decode(z), clip),
        "cogvideox, tiles, windows of 2": (
            *cogvideo,
            lambda vae, z: vae.decode_tiled(z),
            clip,
        ),
    }
    return {name: _abstract(*call) for name, call in calls.items()}


def define(values: flags.FlagValues) -> None:
    """The program's flags."""
    flags.DEFINE_multi_enum("network", list(NETWORKS), list(NETWORKS), "what to run", values)
    flags.DEFINE_multi_enum("size", list(SIZES), SIZES, "sizes whose speed is measured", values)
    flags.DEFINE_integer("repetitions", 7, "timed calls of each", 1, flag_values=values)
    flags.DEFINE_integer("threads", 2, "of either side", 1, flag_values=values)
    flags.DEFINE_list("layers", ["4", "42"], "layers to compile", values)
    flags.DEFINE_bool("speed", True, "measure forward calls", values)
    flags.DEFINE_bool("compilation", True, "measure compilations", values)
    flags.DEFINE_bool("memory", True, "measure the memory of decoders", values)
    flags.DEFINE_bool("small", False, "measure the memory on small videos", values)
    flags.DEFINE_string("output", "", "also write the figures to this JSON file", values)


def main(options: flags.FlagValues) -> int:
    """Runs the program; returns the exit code."""
    console, figures = Console(highlight=False), {}
    if not console.is_terminal:
        console.width = max(console.width, 120)
    if options.speed:
        _use_threads(options.threads)
        figures["speed"] = {}
        for name in options.network:
            for size in options.size:
                with jax.default_matmul_precision("highest"):
                    found = measure_speed(NETWORKS[name](size), options.repetitions)
                figures["speed"].setdefault(name, {})[size] = found
                print(f"{name} {size}: {_describe(found)}", file=sys.stderr, flush=True)
        _print_speed(console, figures["speed"])
    if options.compilation:
        layers = [int(count) for count in options.layers]
        found = measure_compilation(options.network, layers, min(options.repetitions, 3))
        figures["compilation"] = found
        _print_compilation(console, found, layers)
    if options.memory:
        figures["memory"] = measure_memory(decoders(options.small))
        _print_memory(console, figures["memory"])
    if options.output:
        text = json.dumps(figures, indent=2) + "\n"
        media.write_bytes(Path(options.output), text.encode())
        console.print(f"written to {options.output}")
    return 0


def _use_threads(count: int) -> None:
    """As many threads for either side; XLA takes as many as the process may have cores."""
    import torch

    torch.set_num_threads(count)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title=title)
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left", no_wrap=True)
    return table


def _describe(found: Mapping) -> str:
    times = [f"{who} {found[who]['least']:.3f} s" for who in ("ours", "original") if who in found]
    return ", ".join(times)


def _print_speed(console: Console, speed: Mapping) -> None:
    table = _table(
        "warm forward call, least milliseconds",
        ["", "size", "parameters", "ours", "original", "ratio", "error"],
    )
    for name, sizes in speed.items():
        for size, found in sizes.items():
            cells = [f"{1e3 * found['ours']['least']:.1f}", "", "", ""]
            if "original" in found:
                cells[1:] = [
                    f"{1e3 * found['original']['least']:.1f}",
                    f"{found['ratio']:.2f}",
                    f"{found['error']:.1e}",
                ]
            table.add_row(name, size, f"{found['parameters'] / 1e6:.1f} M", *cells)
    console.print(table)


def _print_compilation(console: Console, found: Mapping, layers: Sequence[int]) -> None:
    table = _table(
        "compilation, processor seconds", ["", *(f"{n} layers" for n in layers), "ratio"]
    )
    for name, seconds in found.items():
        ratio = seconds[layers[-1]] / seconds[layers[0]]
        table.add_row(name, *(f"{seconds[n]:.2f}" for n in layers), f"{ratio:.2f}")
    console.print(table)


def _print_memory(console: Console, memory: Mapping) -> None:
    table = _table("decoding a video", ["", "GB"])
    for name, size in memory.items():
        table.add_row(name, f"{size / 1e9:.2f}")
    console.print(table)


if __name__ == "__main__":
    sys.exit(cli.run(main, define, __doc__))
