r"""The embedded world and its small Pyramid-Flow, searched by Tree-of-Frames.

2 CPU cores: first run 26 s with compilation, then 10 s; 1.1 GB of memory. `experiments.evaluate`,
200 held-out captions: one sample succeeds on 0.575, random linear search on 0.770 with N=8, a tree
of about the cost of N=4 on 0.780; 26 minutes on one core.

python -m experiments.generate --prompt="a yellow square moving up and a blue circle moving right"
"""

from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs.search import search


def verifier(
    name: str, *, weight: float, checkpoint: str = "embedded", texts: str = "", **options: Any
) -> ConfigDict:
    """Settings of one verifier.

    Below its `floor`, if it has one, a branch cannot win; one that is `held_out` is reported only.
    A judge's questions can come from a file `texts`, and its options from here: docs/judges.md.
    """
    return ConfigDict(
        dict(
            name=name,
            checkpoint=checkpoint,
            weight=weight,
            floor=placeholder(float),
            held_out=False,
            texts=texts,
            options=options,
        )
    )


def get_config() -> ConfigDict:
    """Settings of `experiments.generate` and `experiments.evaluate`."""
    return ConfigDict(
        dict(
            generator=dict(
                name="pyramid_flow",
                checkpoint="embedded",  # the one inside the package, or a folder laid out like it
                attention="auto",  # or xla, blocks, cudnn, splash
                share_root_noise=False,
                segment="unit",  # or stage, or step: searches then fork inside units too
                steps_per_segment=2,  # of "step"
                eta=0.0,  # noise of "step"s, in [0, 1]; without it only the first of a unit forks
            ),
            verifiers=(
                # Low, since it sees first frames only, which the paths that a tree finishes share.
                verifier("clip", weight=0.2),
                verifier("viclip", weight=1.0),
                verifier("flicker", weight=0.0, checkpoint=""),
            ),
            panel=dict(aggregation="zscore"),  # or sum, rank, pareto, trimmed_rank
            # What verifiers of each stage judge by: the "world"'s grammar, a "file" of the user's
            # at `path`, a language "model" ("package.module:function"), a "decoder", the converted
            # language model at `path` (`cache` keeps its answers), or the "prompt" itself.
            stage_prompts=dict(source="world", path="", model="", cache=""),
            search=search(
                "tree_of_frames",
                branching=(8, 2, 1, 1, 1),
                image_keep=3,
                judge_depths=(2,),
                rule="top_k",
                keep=(3,),
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
            # For a prompt, 0: no limit. Denoiser calls; operations and running time of everything.
            budget=dict(nfe=0, flops=0.0, seconds=0.0),
            # The type of every network's parameters in memory: as "stored" (here float32), float32,
            # bfloat16, or int8 with a scale for every output.
            precision=dict(weights="stored"),
            # A folder of one's own where compiled programs are kept, so that later starts with the
            # same models, shapes and devices neither compile nor trace them; "" for none.
            executables="",
            # Devices that share the branches (0: all there are), the parameters of every network
            # (0: the fewest that hold them and leave a search room), and the tokens of long
            # sequences.
            mesh=dict(branch=0, model=1, sequence=1),
            micro_batch=0,  # branches a device works on at once; 0: any number
            video=dict(fps=8, size=256),
            seed=0,
        )
    )
