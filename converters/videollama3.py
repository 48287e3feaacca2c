r"""Tables of DAMO-NLP-SG/VideoLLaMA3-7B, under its own names and those of transformers."""

from converters.decoder import IGNORED, decoder_rules
from converters.towers import siglip_rules, two_layers

RULES = {
    **siglip_rules(r"model\.(?:vision_encoder|vision_model)\.", "vision.", table=False),
    **two_layers(r"model\.(?:mm_projector|projector)\.readout\.", "projector"),
    **decoder_rules(r"model\.(?:language_model\.)?", "decoder."),
}
__all__ = ["IGNORED", "RULES"]
