r"""Wan2.1-T2V-1.3B, 81 frames of 480x832 at 16 frames a second, random linear search with N=8.

7.2e9 parameters: UMT5 5.68e9, denoiser 1.42e9, VAE 0.13e9; 14.5 GB in bfloat16. A video takes 100
denoiser calls, two for each of 50 steps. UniPC follows the ODE and draws no noise after its first
state; a search that forks later wants `--config.generator.eta=1.0`, the SDE of the same marginals,
or a preset that noises again.

python -m converters.convert --model=wan2_1_1_3b --src=PUBLISHED --dst=DIR --dtype=bfloat16
python -m experiments.generate --config=configs/wan2_1_1_3b.py \
  --config.generator.checkpoint=DIR --prompt="..."
"""

from ml_collections import ConfigDict

from configs.published import published
from configs.search import search


def get_config() -> ConfigDict:
    """Settings of `experiments.generate`, with the sampler as published."""
    return published(
        generator=dict(
            name="wan",
            checkpoint="checkpoints/wan2_1_1_3b",
            attention="auto",  # or xla, blocks, cudnn, splash
            frames=81,
            height=480,
            width=832,
            steps=50,
            steps_per_segment=5,
            draft_steps_per_segment=1,
            guidance=5.0,
            negative_prompt="",
            solver="unipc",  # or euler
            eta=0.0,
            shift=3.0,
            tiled=False,  # True: less memory to decode, slightly other pixels
        ),
        search=search("random_linear", branches=8),
        fps=16,
    )
