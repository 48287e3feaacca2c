r"""CogVideoX-2B, 49 frames of 480x720 at 8 frames a second, random linear search with N=8.

6.67e9 parameters: T5 4.76e9, denoiser 1.69e9, VAE 0.22e9; 13.3 GB in bfloat16. A video takes 100
denoiser calls, two for each of 50 steps. The DDIM solver draws no noise after its first state;
a search that forks later wants `--config.generator.eta=1.0` or a preset that noises again.

Frames are decoded whole, as the diffusers pipeline does unless told otherwise, so that pixels are
those of the published model. At float32 that takes 23.9 GB beside weights and latents, in tiles
(`--config.generator.tiled=True`, slightly other pixels) 6.5 GB, the way on a 24 GB device; both by
`python -m experiments.benchmark_generators --nospeed --nocompilation`.

python -m converters.convert --model=cogvideox_2b --src=PUBLISHED --dst=DIR --dtype=bfloat16
python -m experiments.generate --config=configs/cogvideox_2b.py \
  --config.generator.checkpoint=DIR --prompt="..."
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs.published import published
from configs.search import search


def get_config() -> ConfigDict:
    """Settings of `experiments.generate`, with the sampler as published."""
    return published(
        generator=dict(
            name="cogvideox",
            checkpoint="checkpoints/cogvideox_2b",
            attention="auto",  # or xla, blocks, cudnn, splash
            frames=49,
            height=480,
            width=720,
            steps=50,
            steps_per_segment=5,
            draft_steps_per_segment=1,
            guidance=6.0,
            dynamic_guidance=False,
            negative_prompt="",
            solver="ddim",
            eta=placeholder(float),  # the solver's published one: 0 for ddim, 1 for dpm
            tiled=False,  # True: 6.5 GB to decode instead of 23.9, slightly other pixels
        ),
        search=search("random_linear", branches=8),
        fps=8,
    )
