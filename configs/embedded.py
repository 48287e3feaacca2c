r"""The embedded world and its small Pyramid-Flow, searched by Tree-of-Frames.

2 CPU cores: first run 37 s with compilation, then 16 s; 1.0 GB of memory. `experiments.evaluate`,
200 held-out captions: one sample succeeds on 0.575, random linear search on 0.770 with N=8, a tree
of about the cost of N=4 on 0.780; 18 minutes.

python -m experiments.generate --prompt="a red circle moving right and a blue square moving up"
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Settings of `experiments.generate` and `experiments.evaluate`."""
    return ConfigDict(
        dict(
            generator=dict(
                name="pyramid_flow",
                checkpoint="embedded",  # the one inside the package, or a folder laid out like it
                share_root_noise=False,
            ),
            verifiers=(
                # Low, since it sees first frames only, which the paths that a tree finishes share.
                dict(name="clip", checkpoint="embedded", weight=0.2),
                dict(name="viclip", checkpoint="embedded", weight=1.0),
                dict(name="flicker", checkpoint="", weight=0.0),
            ),
            panel=dict(aggregation="zscore"),
            search=dict(
                preset="tree_of_frames",
                branching=(8, 2, 1, 1, 1),
                image_keep=3,
                judge_depths=(2,),
                rule="top_k",
                keep=(3,),
                branches=8,  # random_linear
            ),
            evaluation=dict(
                captions=200,
                linear=(2, 4, 8, 16),
                trees=dict(
                    tof_4=dict(
                        branching=(8, 2, 1, 1, 1),
                        image_keep=2,
                        judge_depths=(2,),
                        rule="top_k",
                        keep=(2,),
                    ),
                    tof_8=dict(
                        branching=(16, 3, 1, 1, 1),
                        image_keep=3,
                        judge_depths=(2,),
                        rule="top_k",
                        keep=(2,),
                    ),
                ),
                exact=False,  # batches; bits may differ from those of experiments.generate
            ),
            budget=dict(nfe=0),  # denoiser calls for a prompt; 0: no limit
            mesh=dict(branch=0),  # devices that share the branches; 0: all there are
            micro_batch=0,  # branches a device works on at once; 0: any number
            video=dict(fps=8, size=256),
            seed=0,
        )
    )
