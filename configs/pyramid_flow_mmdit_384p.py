r"""Pyramid-Flow SD3, 5 s of 384x640 at 24 frames a second, searched as Video-T1 does.

8.00e9 parameters: denoiser 2.08e9 with its position table, T5 4.76e9, OpenCLIP bigG 0.69e9, VAE
0.34e9, CLIP 0.12e9; 16.0 GB in bfloat16. A video takes 1020 denoiser calls.

python -m converters.convert --model=pyramid_flow_mmdit_384p --src=PUBLISHED --dst=DIR \
  --dtype=bfloat16
python -m experiments.generate --config=configs/pyramid_flow_mmdit_384p.py \
  --config.generator.checkpoint=DIR --prompt="..."
"""

from ml_collections import ConfigDict

from configs import pyramid_flow_flux_384p


def get_config() -> ConfigDict:
    """Settings of `experiments.generate`, with the sampler as published."""
    config = pyramid_flow_flux_384p.get_config()
    config.generator.checkpoint = "checkpoints/pyramid_flow_mmdit_384p"
    return config
