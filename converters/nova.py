"""Tables of baaivision's nova-d48w1024-osp480: networks, video autoencoder, text encoder."""

from collections.abc import Mapping

from converters.core import AS_IS, LINEAR, Rules, patch_kernel
from converters.layers import conv, linear, norm
from tts_jax.generators.nova.transformer import TransformerConfig


def _patches(pattern: str, target: str) -> Rules:
    return conv(pattern + r"\.patch_embed\.proj", f"{target}.patch_embed", transform=patch_kernel)


def _block(pattern: str, target: str, layer: str) -> Rules:
    parts = {"attn.qkv": "qkv", "attn.proj": "out", "mlp.fc1": "up", "mlp.fc2": "down"}
    rules = {}
    for theirs, ours in parts.items():
        theirs = theirs.replace(".", r"\.")
        rules |= linear(rf"{pattern}\.{theirs}", f"{target}.{ours}", layer)
    for name in ("norm1", "norm2"):
        rules |= norm(rf"{pattern}\.{name}", f"{target}.{name}", layer)
    return rules


_MLP = {
    r"text_embed\.proj": "text.proj",
    r"motion_embed\.flow_proj\.0": "flow.fc1",
    r"motion_embed\.flow_proj\.2": "flow.fc2",
    r"motion_embed\.fps_proj\.0": "rate.fc1",
    r"motion_embed\.fps_proj\.2": "rate.fc2",
    r"video_pos_embed\.time_proj\.0": "time.fc1",
    r"video_pos_embed\.time_proj\.2": "time.fc2",
    r"video_encoder\.mixer\.proj": "video.mixer.proj",
    r"image_decoder\.norm\.proj": "decoder.modulation",
    r"image_decoder\.head": "decoder.head",
}
_COND = r"image_decoder\.time_cond_embed\.{}_proj\.(fc[12])"
_DECODER = r"image_decoder\.blocks\.(\d+)"


def transformer_rules(config: TransformerConfig) -> Rules:
    """The table of a config: it says which blocks of the image encoder see known tokens only."""
    rules = {
        r"text_embed\.weight": ("text.table", AS_IS),
        r"mask_embed\.bos_token": ("begin", AS_IS),
        r"mask_embed\.mask_token": ("blank", AS_IS),
        r"video_encoder\.mixer\.lora\.weight": ("video.mixer.lora.kernel", LINEAR),
        **_patches("video_encoder", "video"),
        **_patches("image_encoder", "image"),
        **_patches("image_decoder", "decoder"),
        **norm(r"text_embed\.norm", "text.norm"),
        **norm(r"video_pos_embed\.norm", "time_norm"),
        **norm(r"video_encoder\.norm", "video.norm"),
        **norm(r"image_encoder\.norm", "image.norm"),
        **_block(r"video_encoder\.blocks\.(\d+)", "video.blocks", r"[\1]"),
        **linear(_COND.format("timestep"), r"decoder.time.\1"),
        **linear(_COND.format("condition"), r"decoder.feature.\1"),
        **linear(_DECODER + r"\.norm1\.proj", "decoder.blocks.modulation", r"[\1]"),
        **linear(_DECODER + r"\.proj\.(fc[12])", r"decoder.blocks.mlp.\2", r"[\1]"),
        **norm(_DECODER + r"\.norm2", "decoder.blocks.norm", r"[\1]"),
    }
    for pattern, target in _MLP.items():
        rules |= linear(pattern, target)
    half = config.image_layers // 2
    for layer in range(config.image_layers):
        target = "image.blocks" if layer < half else "image.full_blocks"
        place = layer if layer < half else layer - half
        rules |= _block(rf"image_encoder\.blocks\.{layer}", target, f"[{place}]")
    return rules


def settle_mixer(fields: Mapping, tensors: Mapping) -> dict:
    """A transformer's `config.json` with the rank of the mixer that its weights have, if any.

    Raises:
      ValueError: the file names another rank.
    """
    name = "video_encoder.mixer.lora.weight"
    rank = int(tensors[name].shape[0]) if name in tensors else 0
    named = fields.get("video_mixer_rank")
    if named is not None and (named or 0) != rank:
        raise ValueError(f"video_mixer_rank is {named!r}, the weights have {rank}")
    return dict(fields) | {"video_mixer_rank": rank}


_HALF = r"(encoder|decoder)"
_MID = _HALF + r"\.mid_block"


def _resnet(pattern: str, target: str, part: str) -> Rules:
    """Of a residual block; `part` refers to the group with the name of its layer."""
    return {
        **norm(pattern + r"\.(norm[12])", f"{target}.{part}"),
        **conv(pattern + r"\.(conv[12])", f"{target}.{part}"),
        **conv(pattern + r"\.conv_shortcut", f"{target}.shortcut"),
    }


VAE_RULES: Rules = {
    **conv(r"(|post_)quant_conv", r"\1quant"),
    **conv(_HALF + r"\.(conv_in|conv_out)", r"\1.\2"),
    **norm(_HALF + r"\.conv_norm_out", r"\1.norm_out"),
    **_resnet(_HALF + r"\.(down|up)_blocks\.(\d+)\.resnets\.(\d+)", r"\1.\2.\3.resnets.\4", r"\5"),
    **_resnet(_MID + r"\.resnets\.([01])", r"\1.mid.resnets.\2", r"\3"),
    **conv(r"encoder\.down_blocks\.(\d+)\.downsamplers\.0\.conv", r"encoder.down.\1.conv"),
    **conv(r"decoder\.up_blocks\.(\d+)\.upsamplers\.0\.conv", r"decoder.up.\1.conv"),
    **norm(_MID + r"\.attentions\.0\.group_norm", r"\1.mid.norm"),
    **linear(_MID + r"\.attentions\.0\.to_([qkv])", r"\1.mid.\2"),
    **linear(_MID + r"\.attentions\.0\.to_out\.0", r"\1.mid.out"),
}

_LAYER = r"(?:model\.)?layers\.(\d+)"

PHI_RULES: Rules = {
    r"(?:model\.)?embed_tokens\.weight": ("token.embedding", AS_IS),
    **linear(_LAYER + r"\.self_attn\.([qkv])_proj", r"blocks.attention.\2", r"[\1]"),
    **linear(_LAYER + r"\.self_attn\.dense", "blocks.attention.out", r"[\1]"),
    **linear(_LAYER + r"\.mlp\.fc1", "blocks.up", r"[\1]"),
    **linear(_LAYER + r"\.mlp\.fc2", "blocks.down", r"[\1]"),
    **norm(_LAYER + r"\.input_layernorm", "blocks.norm", r"[\1]"),
    **norm(r"(?:model\.)?final_layernorm", "norm"),
}

PHI_IGNORED = {
    r"lm_head\.(weight|bias)": "of the language model, which no text encoder runs",
    r".*\.rotary_emb\.inv_freq": "recomputed",
}
