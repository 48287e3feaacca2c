r"""The embedded world and its small NOVA, searched by Tree-of-Frames.

python -m experiments.generate --config=configs/embedded_nova.py \
    --prompt="a red circle moving right and a blue square moving up"
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs import embedded


def get_config() -> ConfigDict:
    """Settings of `experiments.generate` and `experiments.evaluate`."""
    config = embedded.get_config()
    config.generator = ConfigDict(
        dict(
            name="nova",
            checkpoint="embedded",
            attention="auto",
            steps=16,
            diffusion_steps=20,
            guidance=3.0,
            least_guidance=placeholder(float),
            segments_per_frame=1,  # more: searches can also fork inside a frame
            fork="both",  # or "order", "tokens"
            cache=True,
        )
    )
    return config
