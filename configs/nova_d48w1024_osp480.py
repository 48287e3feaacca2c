r"""NOVA (nova-d48w1024-osp480), 33 frames of 480x768 at 12 frames a second, Tree-of-Frames.

3.53e9 parameters: Phi-2 2.65e9, networks 0.65e9, VAE 0.24e9; 7.1 GB in bfloat16. A video has 9
latent frames of 1440 tokens; each takes 126 calls of the image encoder, twice that with guidance.
The cache of keys and values is 0.46 GB for each branch in bfloat16; with
`--config.generator.cache=False` all frames are read again for each one instead.

python -m converters.convert --model=nova --src=PUBLISHED --dst=DIR --dtype=bfloat16
python -m experiments.generate --config=configs/nova_d48w1024_osp480.py \
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
            name="nova",
            checkpoint="checkpoints/nova_d48w1024_osp480",
            attention="auto",  # or xla, blocks, cudnn, splash
            image="",  # a picture to start from
            frames=9,  # latent; 1 is an image
            steps=128,
            diffusion_steps=100,
            draft_steps=32,
            draft_diffusion_steps=25,
            guidance=7.0,
            least_guidance=placeholder(float),
            truncation=0.0,
            least_norm=placeholder(float),
            image_guidance=placeholder(float),
            negative_prompt="",
            flow=5.0,  # from 1, little motion, to 10
            rate=12.0,
            segments_per_frame=1,  # more: searches can also fork inside a frame
            rooms=8,
            fork="both",  # or "order", "tokens"
            cache=True,
        ),
        search=search("video_t1", cap=3),
        fps=12,
    )
