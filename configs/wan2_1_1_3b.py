r"""Wan2.1-T2V-1.3B, 81 frames of 480x832 at 16 frames a second, random linear search with N=8.

7.2e9 parameters: UMT5 5.68e9, denoiser 1.42e9, VAE 0.13e9; 14.5 GB in bfloat16. A video takes 100
denoiser calls, two for each of 50 steps. UniPC follows the ODE and draws no noise after its first
state; a search that forks later wants `--config.generator.eta=1.0`, the SDE of the same marginals,
or a preset that noises again.

python -m converters.convert --model=wan2_1_1_3b --src=PUBLISHED --dst=DIR --dtype=bfloat16
python -m experiments.generate --config=configs/wan2_1_1_3b.py \
  --config.generator.checkpoint=DIR --prompt="..."
"""

from ml_collections import ConfigDict

from configs.embedded import verifier
from configs.search import search


def get_config() -> ConfigDict:
    """Settings of `experiments.generate`, with the sampler as published."""
    return ConfigDict(
        dict(
            generator=dict(
                name="wan",
                checkpoint="checkpoints/wan2_1_1_3b",
                attention="auto",  # or xla, blocks, cudnn, splash
                frames=81,
                height=480,
                width=832,
                steps=50,
                steps_per_segment=5,
                draft_steps_per_segment=1,
                guidance=5.0,
                negative_prompt="",
                solver="unipc",  # or euler
                eta=0.0,
                shift=3.0,
                tiled=False,  # True: less memory to decode, slightly other pixels
            ),
            verifiers=(
                verifier("clip", weight=0.2, checkpoint="checkpoints/clip_vit_large_patch14"),
                verifier("viclip", weight=1.0, checkpoint="checkpoints/viclip"),
                verifier("flicker", weight=0.0, checkpoint=""),
            ),
            panel=dict(aggregation="zscore"),
            stage_prompts=dict(source="prompt", path="", model="", cache=""),
            search=search("random_linear", branches=8),
            budget=dict(nfe=0, flops=0.0, seconds=0.0),
            precision=dict(weights="stored"),  # or float32, bfloat16, int8
            executables="",  # a folder of one's own: later starts compile and trace nothing
            mesh=dict(branch=0, model=0, sequence=1),
            micro_batch=1,
            video=dict(fps=16, size=0),
            seed=0,
        )
    )
