r"""The embedded NOVA: 5 frames of 4x4 tokens, each 2x2 latents of the embedded causal VAE.

python -m experiments.train_generator --config=configs/train_nova.py --workdir=DIR \
    --config.vae=DIR_OF_TRAIN_VAE

One CPU core beside other work (`JAX_NUM_CPU_DEVICES=1 --config.objective.size=24`, as the weights
in the package were made): 1.2 s a step, 98 minutes. One sample for each of 40 held-out captions,
averaged weights: success 0.05, 0.23, 0.40, 0.35, 0.43 and facts 0.26, 0.42, 0.53, 0.50, 0.55 after
1000, 2000, 3000, 4000 and 5000 steps; at the end 0.85 on captions of one object and 0.00 on those
of two, whose second object it does not yet draw as the caption says.
"""

from ml_collections import ConfigDict

from configs import train_generator


def get_config() -> ConfigDict:
    """Those of the embedded Pyramid-Flow but for the model; `objective.size` is per device."""
    config = train_generator.get_config()
    config.generator = "nova"
    config.initial.text = "tts_jax/assets"
    config.transformer = ConfigDict(
        dict(
            latent_channels=8,
            patch=2,
            grid=(4, 4),
            video_grid=(2, 2),
            time_base=16,
            text_width=128,
            text_length=13,
            text_rows=13,
            video_layers=6,
            image_layers=6,
            decoder_layers=3,
            video_heads=4,
            image_heads=4,
            width=128,
            decoder_width=192,
        )
    )
    config.sampler = ConfigDict(
        dict(
            frames=5,
            steps=16,
            diffusion_steps=20,
            draft_steps=8,
            draft_diffusion_steps=10,
            rooms=1,
            guidance=3.0,
            solver="flow",
        )
    )
    config.objective = ConfigDict(dict(size=12, targets=8, times=2, history_noise=0.2))
    config.steps = 5000
    config.decay = 1800
    return config
