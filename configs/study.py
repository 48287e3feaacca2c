r"""The study of the README: which search buys what, at equal compute, on the embedded world.

python -m experiments.sweep --config=configs/study.py --workdir=runs/study
python -m experiments.sweep --config=configs/study.py:steps --workdir=runs/study_steps
python -m experiments.sweep --config=configs/study.py:panels --workdir=runs/study_panels

`units` (the default): searches that fork where a unit ends. `steps`: those that fork inside a unit,
whose generator takes stochastic steps. `panels`: what random linear search gains by each verifier.
All take 300 held-out captions and 3 seeds; `--config.sweep.captions` and `--config.sweep.seeds`
make them smaller.
"""

from ml_collections import ConfigDict

from configs import sweep

SAMPLES = (1, 2, 4, 8, 16, 32)
DEFAULT = dict(default=dict(clip=0.2, viclip=1.0))

UNITS = dict(
    successive_halving=dict(
        preset="successive_halving",
        budgets={
            "2": dict(widths=(4, 2, 1)),
            "4": dict(widths=(8, 4, 2)),
            "8": dict(widths=(16, 8, 4)),
        },
    ),
    zero_order=dict(
        preset="zero_order",
        budgets={
            "3": dict(neighbours=2, iterations=1),
            "5": dict(neighbours=2, iterations=2),
            "9": dict(neighbours=2, iterations=4),
        },
    ),
    backtracking=dict(
        preset="backtracking",
        budgets={
            "4": dict(branches=2, restarts=2, children=1),
            "8": dict(branches=4, restarts=2, children=2),
        },
    ),
    draft_then_replay=dict(
        preset="draft_then_replay",
        budgets={
            "2": dict(branches=3, replays=1),
            "4": dict(branches=9, replays=1),
            "8": dict(branches=21, replays=1),
        },
    ),
)

# Denoiser calls of so many videos; each preset with its own widths.
STEPS = {
    name: dict(preset=name, budgets=(4, 8))
    for name in (
        "beam",
        "greedy",
        "fk_steering",
        "evolutionary",
        "search_over_paths",
        "rollover_budget",
    )
}

PANELS = dict(
    **DEFAULT,
    equal=dict(clip=1.0, viclip=1.0),
    clip=dict(clip=1.0),
    viclip=dict(viclip=1.0),
    flicker=dict(flicker=1.0),
)


def get_config(kind: str = "units") -> ConfigDict:
    """Settings of `experiments.sweep` for one part of the study: units, steps or panels."""
    config = sweep.get_config()
    trees = dict(tree_of_frames=config.sweep.searches.tree_of_frames)
    parts = {"units": trees | UNITS, "steps": STEPS, "panels": {}}
    if kind not in parts:
        raise ValueError(f"configs/study.py has the parts {', '.join(parts)}, not {kind!r}")
    searches = dict(random_linear=dict(preset="random_linear", budgets=SAMPLES), **parts[kind])
    panels = PANELS if kind == "panels" else DEFAULT
    config.sweep.update(ConfigDict(dict(captions=300, seeds=(0, 1, 2)), convert_dict=True))
    config.sweep.searches = ConfigDict(searches, convert_dict=True)
    config.sweep.panels = ConfigDict(panels, convert_dict=True)
    if kind == "steps":
        config.generator.update(segment="step", eta=0.5)
    return config
