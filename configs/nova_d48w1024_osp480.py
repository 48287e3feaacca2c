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

from configs.embedded import verifier
from configs.search import search


def get_config() -> ConfigDict:
    """Settings of `experiments.generate`, with the sampler as published."""
    return ConfigDict(
        dict(
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
            verifiers=(
                verifier("clip", weight=0.2, checkpoint="checkpoints/clip_vit_large_patch14"),
                verifier("viclip", weight=1.0, checkpoint="checkpoints/viclip"),
                verifier("flicker", weight=0.0, checkpoint=""),
            ),
            panel=dict(aggregation="zscore"),
            stage_prompts=dict(source="prompt", path="", model="", cache=""),
            search=search("video_t1", cap=3),
            budget=dict(nfe=0, flops=0.0, seconds=0.0),
            precision=dict(weights="stored"),  # or float32, bfloat16, int8
            executables="",  # a folder of one's own: later starts compile and trace nothing
            mesh=dict(branch=0, model=0, sequence=1),
            micro_batch=1,
            video=dict(fps=12, size=0),
            seed=0,
        )
    )
