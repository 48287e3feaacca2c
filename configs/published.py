"""What the configs of published models say alike."""

from typing import Any

from ml_collections import ConfigDict

from configs.embedded import verifier


def published(
    *, generator: dict[str, Any], search: ConfigDict, fps: int, micro_batch: int = 1
) -> ConfigDict:
    """Settings of `experiments.generate` for a converted model, judged by CLIP and ViCLIP.

    Args:
      generator: name, folder and sampler.
      search: of `configs.search.search`.
      fps: frames a second of the videos.
      micro_batch: branches a device works on at once.
    """
    return ConfigDict(
        dict(
            generator=generator,
            verifiers=(
                verifier("clip", weight=0.2, checkpoint="checkpoints/clip_vit_large_patch14"),
                verifier("viclip", weight=1.0, checkpoint="checkpoints/viclip"),
                verifier("flicker", weight=0.0, checkpoint=""),
            ),
            panel=dict(aggregation="zscore"),
            stage_prompts=dict(source="prompt", path="", model="", cache=""),
            search=search,
            budget=dict(nfe=0, flops=0.0, seconds=0.0),
            precision=dict(weights="stored"),  # or float32, bfloat16, int8
            executables="",  # a folder of one's own: later starts compile and trace nothing
            mesh=dict(branch=0, model=0, sequence=1),
            micro_batch=micro_batch,
            video=dict(fps=fps, size=0),
            seed=0,
        )
    )
