r"""The embedded `clip` verifier: one frame of 32x32 against a scene or a caption.

python -m experiments.train_verifier --config=configs/train_verifier_clip.py --workdir=DIR

2 CPU cores: 0.15 hours beside other work (0.24 s a step). At the end a held-out video's caption
beats 0.993 of the captions with a word changed (colour 1.000, shape 0.981, number 1.000), and the
right video 0.989 of its near misses.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Settings of `experiments.train_verifier`."""
    return ConfigDict(
        dict(
            name="clip",
            model=dict(
                vision=dict(size=32, patch=8, width=96, heads=4, layers=4, mlp=384, projection=96),
                text=dict(
                    vocabulary=23,
                    length=13,
                    width=96,
                    heads=4,
                    layers=2,
                    mlp=384,
                    projection=96,
                    eos_id=2,
                ),
            ),
            initial="",
            seed=0,
            trios=16,  # videos in a batch: three times as many
            texts=4,  # for each trio: its caption, the changed one and further changes
            pairs=0.75,  # share of captions with two objects
            scenes=0.5,  # share of texts without motion
            prefixes=(1.0,),
            steps=2000,
            learning_rate=2e-3,
            weight_decay=0.01,
            warmup=50,
            decay=1200,
            ema=0.99,
            log_every=50,
            save_every=250,
            evaluate_every=1000,
            evaluate_captions=200,
            evaluate_misses=50,
        )
    )
