r"""Pyramid-Flow miniFLUX, 10 s of 768x1280 at 24 frames a second, searched as Video-T1 does.

7.19e9 parameters of the same sizes as the 384p variant's, 14.4 GB in bfloat16. A video takes 1920
denoiser calls. On a v5e chip a unit with the longest history takes 9.5 of 16 GiB, all parameters
of the search among them (docs/plan, written by experiments.plan).

python -m converters.convert --model=pyramid_flow_flux_768p --src=PUBLISHED --dst=DIR \
  --dtype=bfloat16
python -m experiments.generate --config=configs/pyramid_flow_flux_768p.py \
  --config.generator.checkpoint=DIR --prompt="..."
"""

from ml_collections import ConfigDict

from configs import pyramid_flow_flux_384p


def get_config() -> ConfigDict:
    """Settings of `experiments.generate`, with the sampler as published."""
    config = pyramid_flow_flux_384p.get_config()
    config.generator.update(
        checkpoint="checkpoints/pyramid_flow_flux_768p", frames=31, height=96, width=160
    )
    return config
