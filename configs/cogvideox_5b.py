r"""CogVideoX-5B, 49 frames of 480x720 at 8 frames a second, random linear search with N=8.

10.5e9 parameters: denoiser 5.57e9, T5 4.76e9, VAE 0.22e9; 21.1 GB in bfloat16. A video takes 100
denoiser calls, two for each of 50 steps. The DPM solver draws noise in every step but the last,
so that a search may fork anywhere; it and dynamic guidance are what the authors' program for the
5B checkpoint takes. Decoding takes 23.9 GB, or 6.5 GB in tiles, as in configs/cogvideox_2b.py.

A v5e chip does not hold all parameters of the search beside five steps: by default two share them,
and each takes 9.8 of 16 GiB. A v6e chip holds them all, in 19.0 of 32 GiB (docs/plan,
written by experiments.plan).

python -m converters.convert --model=cogvideox_5b --src=PUBLISHED --dst=DIR --dtype=bfloat16
python -m experiments.generate --config=configs/cogvideox_5b.py \
  --config.generator.checkpoint=DIR --prompt="..."
"""

from ml_collections import ConfigDict

from configs import cogvideox_2b


def get_config() -> ConfigDict:
    """Settings of `experiments.generate`, with the sampler as published."""
    config = cogvideox_2b.get_config()
    config.generator.checkpoint = "checkpoints/cogvideox_5b"
    config.generator.solver = "dpm"
    config.generator.dynamic_guidance = True
    return config
