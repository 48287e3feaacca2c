r"""The study of Video-T1 (arXiv 2503.18942) as one grid: a model of it, judged by each verifier.

python -m experiments.sweep --config=configs/study_video_t1.py:pyramid_flow_flux_768p \
  --prompts_file=VBench_full_info.json --workdir=SHARED/study/pyramid_flow_flux_768p
python -m experiments.plan --config=configs/study_video_t1.py:pyramid_flow_flux_768p \
  --topology=v5e:4x4 --only=nothing

What follows the colon is one of `MODELS`. Random linear search with N = 1, 3, 6, ..., 30; where a
video grows by units, Tree-of-Frames from as many first frames, its paths halved at three depths.
The panels are each judge alone and all three, by rank. The prompt file is that of the user's copy
of VBench, the questions of the judges lie with their checkpoints (docs/judges.md).

Device-hours of a v5e:4x4 for all 946 prompts and one seed, by rooflines and before the rounds that
trees share (27 November 2026): NOVA 2.5e3, miniFLUX 2.8e3 at 384p and 3.4e4 at 768p, CogVideoX-2B
5.1e2 and 5B 1.4e3, which have no trees.
"""

import importlib

from ml_collections import ConfigDict

from configs.embedded import verifier
from configs.search import search

# Configs, and the units of a video (1: all frames at once, a tree is random linear search).
MODELS = {
    "pyramid_flow_flux_384p": 16,
    "pyramid_flow_flux_768p": 31,
    "pyramid_flow_mmdit_384p": 16,
    "pyramid_flow_mmdit_768p": 31,
    "nova_d48w1024_osp480": 9,
    "cogvideox_2b": 1,
    "cogvideox_5b": 1,
}
SAMPLES = (1, *range(3, 31, 3))
JUDGES = ("visionreward", "videoscore", "videollama3")
PROMPTS = 946  # of VBench


def tree(first: int, units: int) -> dict:
    """Fields of a Tree-of-Frames whose paths are halved after 5, 10, 14 sixteenths of a video."""
    depths = tuple(round(units * share / 16) - 1 for share in (5, 10, 14))
    keep = [first]
    for _ in depths:
        keep.append(-(-keep[-1] // 2))
    return dict(
        branching=(first, *[1] * (units - 1)),
        judge_depths=depths,
        rule="top_k",
        keep=tuple(keep[1:]),
    )


def get_config(model: str = "pyramid_flow_flux_768p") -> ConfigDict:
    """Settings of `experiments.sweep` for one of the models.

    Raises:
      ValueError: another model.
    """
    if model not in MODELS:
        raise ValueError(
            f"configs/study_video_t1.py has the models {', '.join(MODELS)}, not {model!r}"
        )
    config = importlib.import_module(f"configs.{model}").get_config()
    config.verifiers = tuple(
        verifier(name, weight=1.0, checkpoint=f"checkpoints/{name}") for name in JUDGES
    )
    config.panel.aggregation = "rank"
    config.search = search("random_linear", branches=SAMPLES[-1])  # what a plan details
    searches = dict(random_linear=dict(preset="random_linear", budgets=SAMPLES))
    if (units := MODELS[model]) > 1:
        budgets = {str(first): tree(first, units) for first in SAMPLES[1:]}
        searches["tree_of_frames"] = dict(preset="tree_of_frames", budgets=budgets)
    panels = {name: {name: 1.0} for name in JUDGES} | {"all": dict.fromkeys(JUDGES, 1.0)}
    config.sweep = ConfigDict(
        dict(captions=PROMPTS, seeds=(0,), searches=searches, panels=panels, exact=False),
        convert_dict=True,
    )
    return config
