r"""Quality over compute on the embedded world: random linear search and Tree-of-Frames.

python -m experiments.sweep --workdir=runs/sweep
python -m experiments.sweep --workdir=runs/sweep --config.sweep.captions=6

Start the same command several times, on any machines that see the folder, and they share the work.
2 CPU cores, busy with other work: 8 captions and one seed take 7 minutes, compilation included.
"""

from ml_collections import ConfigDict

from configs import embedded


def tree(first: int, keep: int, children: int, survivors: int, last: int = 1) -> dict:
    """Fields of a Tree-of-Frames with one image judge and one judge depth."""
    return dict(
        branching=(first, children, 1, last, 1),
        image_keep=keep,
        judge_depths=(2,),
        rule="top_k",
        keep=(survivors,),
    )


def get_config() -> ConfigDict:
    """Settings of `experiments.sweep`: those of the embedded config, and the grid."""
    config = embedded.get_config()
    config.sweep = ConfigDict(
        dict(
            captions=24,  # held-out captions of the world, unless --prompts_file names prompts
            seeds=(0,),
            # `preset`, and `budgets`: for random_linear its N; for other presets the preset's own
            # fields by label, or numbers: the denoiser calls of so many videos as a limit.
            searches=dict(
                random_linear=dict(preset="random_linear", budgets=(1, 2, 4, 8, 16)),
                tree_of_frames=dict(
                    preset="tree_of_frames",
                    budgets={
                        "2": tree(4, 1, 2, 1),
                        "4": tree(8, 2, 2, 2),
                        "8": tree(16, 3, 3, 2),
                        "16": tree(32, 6, 3, 3, 2),
                    },
                ),
            ),
            # Weights by verifier; one that is not named judges nothing and is held out.
            panels=dict(default=dict(clip=0.2, viclip=1.0)),
            exact=False,  # batches; bits may differ from those of experiments.generate
        ),
        convert_dict=True,
    )
    return config
