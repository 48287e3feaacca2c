r"""The embedded `viclip` verifier: five frames of 32x32, every second one, against a caption.

It starts from the towers of a trained `clip`.

python -m experiments.train_verifier --config=configs/train_verifier_viclip.py --workdir=DIR \
    --config.initial=DIR_OF_CLIP/checkpoint/clip.safetensors

2 CPU cores: 0.5 hours beside other work (0.6 s a step). At the end the caption of a held-out video
beats 0.967 of the captions with a word changed (colour 1.000, shape 1.000, number 1.000, motion
0.900), and the right video 0.976 of its near misses.
"""

from ml_collections import ConfigDict

from configs import train_verifier_clip


def get_config() -> ConfigDict:
    """Settings of `experiments.train_verifier`."""
    config = train_verifier_clip.get_config()
    config.name = "viclip"
    config.model.vision.frames = 5
    config.model.stride = 2
    config.trios = 12
    config.scenes = 0.25
    # A video may also be judged on its first 1, 2, 3 or 4 chosen frames.
    config.prefixes = (0.04, 0.08, 0.1, 0.12, 0.66)
    config.steps = 3000
    config.decay = 1200
    return config
