r"""Open-Sora 1.2, 51 frames of 240x424 at 24 frames a second, random linear search with N=8.

6.4e9 parameters: T5 4.76e9, denoiser 1.21e9, VAE 0.39e9; 12.7 GB in bfloat16. A clip takes 60
denoiser calls, two for each of 30 steps. They follow the ODE and draw no noise after the first
state; a search that forks later wants `--config.generator.eta=1.0`, the SDE of the same marginals,
or a preset that noises again. With `--config.generator.clips=3` two more clips go on from the end
of the first, each another unit of the search, by prompts of their own if there are any, as in
"|0|a house|2|a house on fire"; `--config.generator.image=FILE` gives the first frame. Sides are
those of the published table, 360x640 and 720x1280 among them.

OpenSora-STDiT-v3 and OpenSora-VAE-v1.2 of hpcai-tech and t5-v1_1-xxl of DeepFloyd lie side by side
in PUBLISHED.

python -m converters.convert --model=open_sora_1_2 --src=PUBLISHED --dst=DIR --dtype=bfloat16
python -m experiments.generate --config=configs/open_sora_1_2.py \
  --config.generator.checkpoint=DIR --prompt="..."
"""

from ml_collections import ConfigDict

from configs.published import published
from configs.search import search


def get_config() -> ConfigDict:
    """Settings of `experiments.generate`, with the sampler as published."""
    return published(
        generator=dict(
            name="open_sora",
            checkpoint="checkpoints/open_sora_1_2",
            image="",  # a picture to start from
            attention="auto",  # or xla, blocks, cudnn, splash
            frames=51,
            height=240,
            width=426,
            rate=24.0,
            clips=1,
            overlap=5,
            aesthetic=6.5,  # 0: not said
            motion=0.0,
            camera="",  # such as "pan left"
            steps=30,
            steps_per_segment=5,
            draft_steps_per_segment=1,
            guidance=7.0,
            eta=0.0,
        ),
        search=search("random_linear", branches=8),
        fps=24,
    )
