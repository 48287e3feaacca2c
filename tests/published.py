"""Published checkpoint directories with tiny random weights, and recordings of their originals.

Only the sizes are not those of the published checkpoints: folders, file names, tensor names and
configuration fields are.
"""

import json
import shutil
import string
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers
from flax import nnx
from safetensors.numpy import load_file, save_file
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Saved
from tokenizers.pre_tokenizers import ByteLevel

from tests.stand_ins import Letters
from tts_jax.checkpoints import abstract_params

WORDS = ("▁a", "▁red", "▁blue", "▁circle", "▁square", "▁", *"abcdefghijklmnopqrstuvwxyz,")
T5_WORDS = 3 + len(WORDS)
CLIP_WORDS = 514  # letters, letters that end a word, begin and end


def randomise(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Draws every parameter, those of norms around 1, in float32 and for inference."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            norm = "norm" in name and tensor.ndim == 1 and name.endswith("weight")
            fan = tensor[0].numel() if tensor.ndim > 1 else 25
            tensor.normal_(1.0 if norm else 0.0, fan**-0.5, generator=generator)
    return model.eval()


def random_module(build, config, seed: int = 0) -> nnx.Module:
    """Ours with weights drawn on the host, which is quicker than compiling the initialisers."""
    graph, like = abstract_params(build, config)
    rng = np.random.default_rng(seed)

    def draw(leaf):
        scale = leaf.shape[-1] ** -0.5 if leaf.ndim > 1 else 0.3
        return jnp.asarray(scale * rng.normal(size=leaf.shape) + (leaf.ndim == 1), leaf.dtype)

    return nnx.merge(graph, jax.tree.map(draw, like))


def random_params(generator) -> dict:
    """Of all parts of a generator, as those of `random_module`."""
    modules = {name: random_module(*network) for name, network in generator.networks.items()}
    return {name: nnx.to_pure_dict(nnx.state(module)) for name, module in modules.items()}


class PublishedLetters(Letters):
    """The same for the package's pipelines too."""

    def __call__(self, prompts, **_):
        ids, mask = (torch.tensor(x) for x in self.tokenize(prompts))
        return SimpleNamespace(input_ids=ids, attention_mask=mask.long())


def write_t5_tokenizer(folder: Path) -> None:
    """Writes a Unigram tokenizer of a few words and all letters."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0), *((word, -1.0) for word in WORDS)]
    end = {"id": "</s>", "ids": [1], "tokens": ["</s>"]}
    saved = {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {
            "type": "Metaspace",
            "replacement": "▁",
            "prepend_scheme": "always",
            "split": True,
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "</s>", "type_id": 0}},
            ],
            "pair": [],
            "special_tokens": {"</s>": end},
        },
        "model": {"type": "Unigram", "unk_id": 2, "vocab": pieces, "byte_fallback": False},
    }
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_text(json.dumps(saved))


def write_clip_tokenizer(folder: Path) -> None:
    """Writes CLIP's tokenizer without any merge: every letter is a token."""
    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, *(f"{letter}</w>" for letter in letters)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({name: i for i, name in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")


def make_t5(width: int) -> torch.nn.Module:
    """A T5 encoder."""
    config = transformers.T5Config(
        vocab_size=T5_WORDS,
        d_model=width,
        d_kv=4,
        d_ff=16,
        num_heads=2,
        num_layers=2,
        feed_forward_proj="gated-gelu",
    )
    return randomise(transformers.T5EncoderModel(config), seed=1)


def clip_text_fields(width: int) -> dict:
    return dict(
        vocab_size=CLIP_WORDS,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2 if width % 4 == 0 else 1,
        bos_token_id=CLIP_WORDS - 2,
        eos_token_id=CLIP_WORDS - 1,
    )


def make_clip_text(width: int, projection: int | None = None, **fields) -> torch.nn.Module:
    """A CLIP text tower, with a projection or without."""
    build = transformers.CLIPTextModel
    if projection is not None:
        build, fields = (
            transformers.CLIPTextModelWithProjection,
            fields | {"projection_dim": projection},
        )
    config = transformers.CLIPTextConfig(**clip_text_fields(width), **fields)
    return randomise(build(config), seed=2)


def write_clip(root: Path) -> None:
    """Writes openai/clip-vit-large-patch14."""
    config = transformers.CLIPConfig(
        text_config=clip_text_fields(16) | {"projection_dim": 8},
        vision_config=dict(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=16,
            patch_size=8,
            projection_dim=8,
        ),
        projection_dim=8,
    )
    randomise(transformers.CLIPModel(config)).save_pretrained(root)
    write_clip_tokenizer(root)


# Golden folders of the judges' weights.
JUDGES = {
    "image_selector": "llava_onevision_orm",
    "videollama3": "videollama3",
    "videoreward": "videoreward",
    "videoscore": "videoscore",
    "visionreward": "cogvlm2_video",
}


def run_program(program, **flags) -> int:
    """The exit code of a converter's program."""
    return program.program(["program", *(f"--{name}={v}" for name, v in flags.items())])


def judge_tokenizer() -> Saved:
    """Words and letters, with the special tokens of all judges' layouts."""
    special = ["<unk>", "<s>", "<fake_token_around_image>", "<image>", "<|im_start|>"]
    special += ["<|im_end|>", "<|vision_start|>", "<|vision_end|>"]
    special += [f"<|{name}_reward|>" for name in ("VQ", "MQ", "TA")]
    names = [*special, "yes", "no", *string.ascii_lowercase, *string.digits, *" .,:?\n"]
    saved = Saved(models.WordLevel({n: i for i, n in enumerate(names)}, unk_token="<unk>"))
    saved.pre_tokenizer = pre_tokenizers.Split(Regex("yes|no|."), "isolated")
    saved.add_special_tokens([AddedToken(name, special=True) for name in special])
    return saved


def write_judge(folder: Path, golden: Path, texts: Mapping) -> None:
    """Writes a judge's published directory.

    Args:
      folder: the directory.
      golden: the judge's golden folder.
      texts: of `judge.json`.
    """
    folder.mkdir(parents=True)
    shutil.copy(golden / "config.json", folder)
    shutil.copy(golden / "weights.safetensors", folder / "model.safetensors")
    (folder / "tokenizer.json").write_text(judge_tokenizer().to_str())
    (folder / "judge.json").write_text(json.dumps(texts))


# Families of conversing language models, with fields of their configurations.
LANGUAGE_MODELS = {
    "llama": (transformers.LlamaForCausalLM, {"rms_norm_eps": 1e-5}),
    "mistral": (transformers.MistralForCausalLM, {"sliding_window": None}),
    "qwen2": (transformers.Qwen2ForCausalLM, {"tie_word_embeddings": True}),
}


def language_tokenizer() -> Saved:
    """Bytes, and the special tokens of all families' conversations."""
    letters = sorted(ByteLevel.alphabet())
    saved = Saved(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    saved.pre_tokenizer = ByteLevel(add_prefix_space=False)
    saved.decoder = decoders.ByteLevel()
    special = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    special += ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    saved.add_special_tokens([AddedToken(name, special=True) for name in special])
    return saved


def write_language_model(folder: Path, family: str) -> torch.nn.Module:
    """Writes a conversing language model of random weights; returns it."""
    build, fields = LANGUAGE_MODELS[family]
    saved = language_tokenizer()
    config = build.config_class(
        vocab_size=saved.get_vocab_size(),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        **fields,
    )
    model = randomise(build(config))
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(saved.to_str())
    return model


def write_cogvideox(root: Path, recordings: Path, size: str) -> None:
    """Writes THUDM/CogVideoX-2b or -5b, and golden folders of its components.

    Args:
      root: the published directory.
      recordings: gets the folder of golden folders.
      size: "2b" or "5b".
    """
    rotary = size == "5b"
    text, length = 16, 5
    transformer = randomise(
        diffusers.CogVideoXTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=16,
            num_layers=2,
            in_channels=4,
            out_channels=4,
            time_embed_dim=8,
            text_embed_dim=text,
            sample_width=6,
            sample_height=4,
            max_text_seq_length=length,
            use_rotary_positional_embeddings=rotary,
        )
    )
    vae = randomise(
        diffusers.AutoencoderKLCogVideoX(
            down_block_types=("CogVideoXDownBlock3D",) * 3,
            up_block_types=("CogVideoXUpBlock3D",) * 3,
            block_out_channels=(4, 8, 8),
            layers_per_block=1,
            latent_channels=4,
            norm_num_groups=2,
            sample_height=16,
            sample_width=24,
            scaling_factor=0.7 if rotary else 1.15258426,
        )
    )
    solver = diffusers.CogVideoXDPMScheduler if rotary else diffusers.CogVideoXDDIMScheduler
    scheduler = solver(
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
        snr_shift_scale=1.0 if rotary else 3.0,
    )
    t5 = make_t5(text)
    parts = {"transformer": transformer, "vae": vae, "text_encoder": t5, "scheduler": scheduler}
    for folder, part in parts.items():
        part.save_pretrained(root / folder)
    write_t5_tokenizer(root / "tokenizer")
    index = {"_class_name": "CogVideoXPipeline", "tokenizer": ["transformers", "T5Tokenizer"]}
    index |= {folder: ["diffusers", type(part).__name__] for folder, part in parts.items()}
    (root / "model_index.json").write_text(json.dumps(index))

    random = np.random.default_rng(0)
    latents = random.normal(size=(1, 2, 4, 4, 6)).astype(np.float32)
    states = random.normal(size=(1, length, text)).astype(np.float32)
    clip = random.normal(size=(1, 4, 1, 4, 6)).astype(np.float32)
    rope = None
    if rotary:
        from diffusers.models.embeddings import get_3d_rotary_pos_embed

        rope = get_3d_rotary_pos_embed(16, ((0, 0), (2, 3)), (2, 3), 2)
    time = torch.tensor([500])
    with torch.no_grad():
        velocity = transformer(
            torch.tensor(latents), torch.tensor(states), time, image_rotary_emb=rope
        ).sample
        pixels = vae.decode(torch.tensor(clip)).sample
    inputs = {"hidden_states": latents, "encoder_hidden_states": states, "timestep": time.numpy()}
    record(
        recordings / f"cogvideox_{size}_transformer",
        {f"a.in.{name}": x for name, x in inputs.items()} | {"a.out": velocity.numpy()},
    )
    record(recordings / "cogvideox_vae", {"b.in": clip, "b.out": pixels.numpy()})
    record_t5(recordings, t5)


def write_pyramid_flow(root: Path, recordings: Path, golden, variant: str) -> None:
    """Writes rain1011/pyramid-flow-miniflux or -sd3 of 384p, and golden folders of its components.

    Args:
      root: the published directory.
      recordings: gets the folder of golden folders.
      golden: the fixture; gives weights under the names of the original's own classes.
      variant: "flux" or "mmdit".
    """
    denoiser = f"pyramid_flow_{variant}"
    target = root / "diffusion_transformer_384p"
    copy_weights(golden(denoiser), target)
    fields = json.loads((target / "config.json").read_text())
    record(recordings / denoiser, first_call(golden(denoiser)))
    channels = fields["in_channels"] // (4 if variant == "flux" else 1)
    write_pyramid_flow_vae(golden("pyramid_flow_vae"), root / "causal_video_vae", channels)
    pooled = fields["pooled_projection_dim"]
    if variant == "flux":
        towers = [make_clip_text(pooled)]
    else:
        towers = [make_clip_text(16, pooled // 2)]
        towers.append(make_clip_text(24, pooled - pooled // 2, hidden_act="gelu"))
    t5 = make_t5(fields["joint_attention_dim"])
    for number, encoder in enumerate([*towers, t5], start=1):
        ending = f"_{number}" if number > 1 else ""
        encoder.save_pretrained(root / f"text_encoder{ending}")
        write = write_t5_tokenizer if encoder is t5 else write_clip_tokenizer
        write(root / f"tokenizer{ending}")
    record_t5(recordings, t5)


def write_pyramid_flow_vae(golden: Path, folder: Path, channels: int) -> None:
    """Writes the golden VAE, its tensors repeated where it has another number of channels."""
    copy_weights(golden, folder)
    fields = json.loads((folder / "config.json").read_text())
    if fields["encoder_out_channels"] == channels:
        return
    fields |= {"encoder_out_channels": channels, "decoder_in_channels": channels}
    (folder / "config.json").write_text(json.dumps(fields))
    path = folder / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    outputs = {"encoder.conv_out": 2, "quant_conv": 2, "post_quant_conv": 1}
    inputs = {"decoder.conv_in": 1, "quant_conv": 2, "post_quant_conv": 1}
    for name, tensor in tensors.items():
        layer, shape = name.rpartition(".")[0].removesuffix(".conv"), list(tensor.shape)
        if layer in outputs:
            shape[0] = outputs[layer] * channels
        if layer in inputs and len(shape) > 1:
            shape[1] = inputs[layer] * channels
        tensors[name] = np.resize(tensor, shape)
    path.unlink()
    save_file(tensors, path)


def copy_weights(golden: Path, folder: Path) -> None:
    """Copies a golden folder's weights to where the published directory has them."""
    folder.mkdir(parents=True)
    shutil.copy(golden / "config.json", folder)
    weights = folder / "diffusion_pytorch_model.safetensors"
    shutil.copy(golden / "weights.safetensors", weights)


def first_call(golden: Path) -> dict[str, np.ndarray]:
    """The recorded call with the fewest tensors, inputs and outputs."""
    calls: dict[str, dict] = {}
    for name, tensor in load_file(golden / "io.safetensors").items():
        calls.setdefault(name.partition(".")[0], {})[name] = tensor
    complete = [call for call in calls.values() if any(".out." in name for name in call)]
    return min(complete, key=len)


def record_t5(recordings: Path, model: torch.nn.Module) -> None:
    """Records a call of a T5 encoder."""
    tokens = np.random.default_rng(0).integers(1, T5_WORDS, (2, 7))
    with torch.no_grad():
        states = model(torch.tensor(tokens)).last_hidden_state.numpy()
    record(recordings / "t5_v1_1_xxl_encoder", {"c.in.input_ids": tokens, "c.out": states})


def record(folder: Path, tensors: dict[str, np.ndarray]) -> None:
    """Writes the inputs and outputs of a golden folder."""
    folder.mkdir(parents=True)
    save_file({n: np.ascontiguousarray(x) for n, x in tensors.items()}, folder / "io.safetensors")
