"""The image selector of Image-Generation-CoT (arXiv 2501.13926): LLaVA-OneVision on one frame.

It answers three questions: whether a frame is clear enough to be judged, whether it can still
become what the prompt says (PARM), and whether it shows it (ORM). It is read once for all three.

B branches  T frames  H W frame size  Q questions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from tts_jax.checkpoints import abstract_params
from tts_jax.language.decoder import Decoder, DecoderConfig
from tts_jax.language.reader import PLACEHOLDER, Reader
from tts_jax.nn.mlp import MLP
from tts_jax.verifiers.judging import ROW, Questions, ask, begin, log_odds, pack
from tts_jax.vision.resize import normalise_levels, resize, to_levels
from tts_jax.vision.siglip import MEAN, STD, SiglipConfig, SiglipTower, by_frame

SYSTEM = "You are a helpful assistant."
GREY = 127.0
QUESTIONS = {
    "clarity": (
        f' This is an unfinished picture of a series that ends with "{PLACEHOLDER}". Are its '
        "things clear enough to tell what they are? Answer with one word in lower case, yes or no."
    ),
    "potential": (
        f' This is an unfinished picture of a series that ends with "{PLACEHOLDER}". Can it still '
        "become a picture that shows this? Answer with one word in lower case, yes or no."
    ),
    "orm": (
        f' Does this picture show "{PLACEHOLDER}" with all that is said there? Answer with one '
        "word in lower case, yes or no."
    ),
}
MODES = ("orm", "potential", "parm")


@dataclass(frozen=True, kw_only=True)
class ImageSelectorConfig:
    """Parts of the judge; it looks at one square of `vision.side` by `vision.side` patches."""

    vision: SiglipConfig
    decoder: DecoderConfig

    @classmethod
    def llava_onevision_7b(cls) -> "ImageSelectorConfig":
        """lmms-lab/llava-onevision-qwen2-7b-ov and the judges that were trained from it."""
        return cls(
            vision=SiglipConfig.so400m(side=27, layers=26, last_norm=False),
            decoder=DecoderConfig.qwen2_7b(),
        )

    @classmethod
    def from_reference(cls, config: Mapping) -> "ImageSelectorConfig":
        """The sizes in a published `config.json`, already parsed.

        Where it names its tower only, that tower is SigLIP so400m of 384 pixels.

        Raises:
          ValueError: settings that the judge does not have.
        """
        for name, only in (("mm_projector_type", "mlp2x_gelu"), ("mm_vision_select_layer", -2)):
            if config.get(name, only) != only:
                raise ValueError(f"{name} is {config[name]!r}; the port supports {only!r} only")
        tower = config.get("vision_config")
        if tower is None:
            vision = cls.llava_onevision_7b().vision
        else:
            side = tower["image_size"] // tower["patch_size"]
            vision = SiglipConfig.from_reference(tower, side=side, last_norm=False)
        return cls(vision=vision, decoder=DecoderConfig.from_reference(config, "qwen2"))

    @property
    def size(self) -> int:
        """Side of the tower's input, pixels."""
        return self.vision.side * self.vision.patch


class ImageSelector(nnx.Module):
    """Tower without its last layer, two linear layers, a row after the image, language model."""

    def __init__(self, config: ImageSelectorConfig, *, rngs: nnx.Rngs):
        self.config = config
        width = config.decoder.width
        self.vision = SiglipTower(config.vision, rngs=rngs)
        self.projector = MLP(config.vision.width, width, rngs=rngs)
        self.newline = nnx.Param(nnx.initializers.normal(0.02)(rngs.params(), (width,)))
        self.decoder = Decoder(config.decoder, rngs=rngs)

    def features(self, pixels: Array) -> Array:
        """States of the patches, [B, S, S, 3] -> [B, patches, D]."""
        side = self.config.vision.side
        x = self.vision(pixels, places=np.arange(side**2).reshape(side, side))
        return x.reshape(x.shape[0], side**2, -1)

    def see(self, pixels: Array) -> Array:
        """Rows of the language model, [B, S, S, 3] -> [B, patches + 1, D]."""
        x = self.projector(self.features(pixels))
        last = jnp.broadcast_to(self.newline[...], (x.shape[0], 1, x.shape[-1]))
        return jnp.concatenate([x, last.astype(x.dtype)], axis=1)


def padded_input(images: Array, size: int) -> Array:
    """Images in the middle of a grey square, resized and normalised (LLaVA's `pad`).

    Args:
      images: [..., H, W, 3] float in [0, 1].
      size: side of the result, pixels.
    """
    x = to_levels(images)
    height, width = x.shape[-3:-1]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    around = [(top, side - height - top), (left, side - width - left), (0, 0)]
    x = jnp.pad(x, [(0, 0)] * (x.ndim - 3) + around, constant_values=GREY)
    return normalise_levels(resize(x, (size, size), "bicubic", quantise=True), MEAN, STD)


class ImageSelectorVerifier:
    """Judges the first frame.

    Three modes: "orm" gives the log-odds that the frame shows the prompt; "potential" that it can
    come to show it; "parm" minus the probability that it cannot, and -1 for a frame that is not
    clear, as the published selector ranks branches, but without drawing answers by chance.
    """

    name = "image_selector"
    needs = "image"

    def __init__(
        self,
        config: ImageSelectorConfig,
        reader: Reader,
        questions: Mapping[str, str] = QUESTIONS,
        *,
        mode: str = "orm",
    ):
        """Builds the graph; allocates no parameters.

        Args:
          config: sizes.
          reader: of the language model's tokens.
          questions: what follows the frame, by the names in `QUESTIONS`, with `PLACEHOLDER`; a text
            may hold several turns, with the special tokens between them.
          mode: one of `MODES`.

        Raises:
          ValueError: unknown mode, or a question is missing.
        """
        if mode not in MODES or set(questions) != set(QUESTIONS):
            raise ValueError(
                f"the image selector knows the modes {', '.join(MODES)} and asks "
                f"{', '.join(QUESTIONS)}; given are {mode!r} and {', '.join(questions)}"
            )
        self.config = config
        self.reader = reader
        self.questions = dict(questions)
        self.mode = mode
        self.graph, self.abstract_params = abstract_params(ImageSelector, config)

    def prepare(self, params: dict, prompts: Sequence[str]) -> Questions:
        """Token ids of the three questions about each prompt."""
        end = "<|im_end|>\n<|im_start|>assistant\n"
        texts = [self.questions[name] + end for name in QUESTIONS]
        return pack([[self.reader.fill(text, prompt) for text in texts] for prompt in prompts])

    def answers(self, params: dict, frames: Array, query: Questions) -> dict[str, Array]:
        """Log-odds of yes over no to each question about the first frames, [B] float32 each."""
        model = nnx.merge(self.graph, params)
        rows = by_frame(model.see, padded_input(frames[:, 0], self.config.size))
        start = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n"
        ids = [*self.reader.fill(start, ""), *[ROW] * rows.shape[1]]
        prefix = begin(model.decoder, ids, rows)
        logits = model.decoder.logits(ask(model.decoder, prefix, query.tokens, query.seen))
        odds = log_odds(logits, self.reader.answer("yes"), self.reader.answer("no"))
        return {name: odds[:, index] for index, name in enumerate(QUESTIONS)}

    def score(self, params: dict, frames: Array, query: Questions) -> Array:
        """The score, [B] float32; arguments as in the protocol."""
        odds = self.answers(params, frames, query)
        if self.mode != "parm":
            return odds[self.mode]
        return jnp.where(odds["clarity"] > 0, -jax.nn.sigmoid(-odds["potential"]), -1.0)
