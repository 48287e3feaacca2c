r"""Latte-1, 16 frames of 512x512 at 8 frames a second, random linear search with N=8.

5.9e9 parameters: T5 4.76e9, denoiser 1.06e9, VAE 0.08e9; 11.8 GB in bfloat16. A video takes 100
denoiser calls, two for each of 50 steps. The DDIM solver draws no noise after its first state;
a search that forks later wants `--config.generator.eta=1.0` or a preset that noises again.

TPU v5e 4x4: a segment takes 6.2 GiB of a chip's 16, and 4.8 seconds by the compiler's estimate; ten
make the videos of a prompt (`experiments.plan --topology=v5e:4x4 --only=next`).

python -m converters.convert --model=latte_1 --src=PUBLISHED --dst=DIR --dtype=bfloat16
python -m experiments.generate --config=configs/latte_1.py \
  --config.generator.checkpoint=DIR --prompt="..."
"""

from ml_collections import ConfigDict

from configs.published import published
from configs.search import search


def get_config() -> ConfigDict:
    """Settings of `experiments.generate`, with the sampler as published."""
    return published(
        generator=dict(
            name="latte",
            checkpoint="checkpoints/latte_1",
            attention="auto",  # or xla, blocks, cudnn, splash
            frames=16,  # or 1
            height=512,
            width=512,
            clean=True,  # prompts, as the captions of the training videos; False: lower case
            steps=50,
            steps_per_segment=5,
            draft_steps_per_segment=1,
            guidance=7.5,
            negative_prompt="",
            eta=0.0,
        ),
        search=search("random_linear", branches=8),
        fps=8,
    )
