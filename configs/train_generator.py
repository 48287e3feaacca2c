r"""The embedded Pyramid-Flow: 5 units of one latent frame, each a pyramid of 2x2, 4x4, 8x8 latents.

python -m experiments.train_generator --config=configs/train_generator.py --workdir=DIR \
    --config.vae=DIR_OF_TRAIN_VAE

2 CPU cores: 1.1 to 2.4 s a step beside other work, so about 1.3 hours. One sample for each of 40
held-out captions, averaged weights: success 0.03, 0.13, 0.30, 0.65 and facts 0.19, 0.42, 0.57, 0.81
after 500, 1000, 1500 and 2000 steps. The weights in the package are those of step 2000.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Settings of `experiments.train_generator`; sizes in `plan` are samples per device."""
    return ConfigDict(
        dict(
            generator="pyramid_flow",
            vae="runs/train_vae",
            # Checkpoint folders to start parts from, such as tts_jax/assets.
            initial=dict(text="", transformer=""),
            transformer=dict(
                heads=4,
                head_size=32,
                double_blocks=2,
                single_blocks=4,
                latent_channels=8,
                rope_axes=(8, 12, 12),
                text_width=128,
                pooled_width=128,
            ),
            text=dict(vocabulary=23, length=13, width=128, heads=4, layers=2, mlp=512, eos_id=2),
            sampler=dict(
                frames=5,
                height=8,
                width=8,
                channels=8,
                steps_first=(4, 4, 6),
                steps=(3, 3, 4),
                guidance_first=4.0,
                guidance=3.0,
            ),
            objective=dict(
                plan=(
                    dict(stage=0, first=True, size=12),
                    dict(stage=1, first=True, size=12),
                    dict(stage=2, first=True, size=16),
                    dict(stage=0, first=False, size=16, groups=4),
                    dict(stage=1, first=False, size=16, groups=4),
                    dict(stage=2, first=False, size=24, groups=4),
                ),
            ),
            seed=0,
            videos=24000,
            pairs=0.7,
            dropout=0.1,
            steps=2600,
            learning_rate=3e-3,
            weight_decay=0.01,
            warmup=100,
            decay=1200,
            ema=0.995,
            log_every=50,
            save_every=250,
            evaluate_every=500,
            evaluate_captions=40,
        )
    )
