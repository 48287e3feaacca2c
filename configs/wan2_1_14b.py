r"""Wan2.1-T2V-14B, 81 frames of 720x1280 at 16 frames a second, random linear search with N=8.

20.1e9 parameters: denoiser 14.3e9, UMT5 5.68e9, VAE 0.13e9; 40.2 GB in bfloat16. Steps and forks
as in configs/wan2_1_1_3b.py. The shift is the one for 720p; at 480x832 take
`--config.generator.shift=3.0`.

python -m converters.convert --model=wan2_1_14b --src=PUBLISHED --dst=DIR --dtype=bfloat16
python -m experiments.generate --config=configs/wan2_1_14b.py \
  --config.generator.checkpoint=DIR --prompt="..."
"""

from ml_collections import ConfigDict

from configs import wan2_1_1_3b


def get_config() -> ConfigDict:
    """Settings of `experiments.generate`, with the sampler as published."""
    config = wan2_1_1_3b.get_config()
    config.generator.checkpoint = "checkpoints/wan2_1_14b"
    config.generator.height = 720
    config.generator.width = 1280
    config.generator.shift = 5.0
    return config
