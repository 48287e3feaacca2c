r"""Pyramid-Flow SD3, 10 s of 768x1280 at 24 frames a second, searched as Video-T1 does.

8.00e9 parameters of the same sizes as the 384p variant's, 16.0 GB in bfloat16. A video takes 1920
denoiser calls.

python -m converters.convert --model=pyramid_flow_mmdit_768p --src=PUBLISHED --dst=DIR \
  --dtype=bfloat16
python -m experiments.generate --config=configs/pyramid_flow_mmdit_768p.py \
  --config.generator.checkpoint=DIR --prompt="..."
"""

from ml_collections import ConfigDict

from configs import pyramid_flow_flux_768p


def get_config() -> ConfigDict:
    """Settings of `experiments.generate`, with the sampler as published."""
    config = pyramid_flow_flux_768p.get_config()
    config.generator.checkpoint = "checkpoints/pyramid_flow_mmdit_768p"
    return config
