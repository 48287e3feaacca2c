r"""Pyramid-Flow miniFLUX, 5 s of 384x640 at 24 frames a second, searched as Video-T1 does.

7.19e9 parameters: denoiser 1.97e9, T5 4.76e9, VAE 0.34e9, CLIP 0.12e9; 14.4 GB in bfloat16. A video
takes 1020 denoiser calls, the search from 90 to 120 units instead of 16.

python -m converters.convert --model=pyramid_flow_flux_384p --src=PUBLISHED --dst=DIR \
  --dtype=bfloat16
python -m experiments.generate --config=configs/pyramid_flow_flux_384p.py \
  --config.generator.checkpoint=DIR --prompt="..."
"""

from ml_collections import ConfigDict

from configs.published import published
from configs.search import search


def get_config() -> ConfigDict:
    """Settings of `experiments.generate`, with the sampler as published."""
    return published(
        generator=dict(
            name="pyramid_flow",
            checkpoint="checkpoints/pyramid_flow_flux_384p",
            attention="auto",  # or xla, blocks, cudnn, splash
            image="",  # a picture to start from; the published guidance is then 4
            frames=16,  # latent, eight times fewer than those of the video
            height=48,
            width=80,
            steps_first=(20, 20, 20),
            steps=(10, 10, 10),
            guidance_first=7.0,
            guidance=5.0,
            segment="unit",  # or stage, step
            share_root_noise=False,
            history_programs=3,  # more compile longer and pad the history less
            tile=256,  # pixels; 0 decodes whole frames
            window=1,  # latent frames decoded at a time; 0 for all
        ),
        search=search("video_t1", cap=3),
        fps=24,
    )
