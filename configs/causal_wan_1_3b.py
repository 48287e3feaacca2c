r"""Causal Wan 1.3B (Self-Forcing), 81 frames of 480x832 at 16 frames a second, Tree-of-Frames.

7.2e9 parameters: UMT5 5.68e9, denoiser 1.42e9, VAE 0.13e9; 14.5 GB in bfloat16. A video is seven
chunks of three latent frames; each takes four denoiser calls, and one that reads the chunks before
it, once for all children of a parent. With `--config.generator.segment=step` searches fork between
the steps of a chunk too, each of which draws fresh noise.

python -m experiments.generate --config=configs/causal_wan_1_3b.py \
  --config.generator.checkpoint=DIR --prompt="..."
"""

from ml_collections import ConfigDict

from configs.published import published
from configs.search import search


def get_config() -> ConfigDict:
    """Settings of `experiments.generate`, with the sampler as published."""
    return published(
        generator=dict(
            name="causal_wan",
            checkpoint="checkpoints/causal_wan_1_3b",
            attention="auto",  # or xla, blocks, cudnn, splash
            frames=81,
            height=480,
            width=832,
            chunk=3,
            first_alone=False,
            steps=(1000, 750, 500, 250),
            warped=True,
            shift=5.0,
            context_time=0.0,
            window=0,  # latent frames that a chunk sees, its own included; 0 for all
            sink=0,
            segment="chunk",  # or step
            # The first frame, a picture; needs first_alone, and frames=85, say: 22 latent ones,
            # of which those after the first are chunks.
            image="",
            tiled=False,  # True: less memory to decode, slightly other pixels
        ),
        search=search(
            "tree_of_frames",
            branching=(8, 2, 2, 1, 1, 1, 1),
            judge_depths=(0, 1, 2),
            rule="top_k",
            keep=(3, 2, 2),
        ),
        fps=16,
        micro_batch=2,  # children of one parent, which share its past; of two, both are held
    )
