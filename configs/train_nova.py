r"""The embedded NOVA: 5 frames of 4x4 tokens, each 2x2 latents of the embedded causal VAE.

python -m experiments.train_generator --config=configs/train_nova.py --workdir=DIR \
    --config.vae=DIR_OF_TRAIN_VAE

Not trained to the end yet: 70 steps of 40 videos lowered the loss from 3.3 to 1.55.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Settings of `experiments.train_generator`; `objective.size` is of videos per device."""
    return ConfigDict(
        dict(
            generator="nova",
            vae="runs/train_vae",
            # Checkpoint folders to start parts from.
            initial=dict(text="tts_jax/assets", transformer=""),
            transformer=dict(
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
            ),
            text=dict(vocabulary=23, length=13, width=128, heads=4, layers=2, mlp=512, eos_id=2),
            sampler=dict(
                frames=5,
                steps=16,
                diffusion_steps=20,
                draft_steps=8,
                draft_diffusion_steps=10,
                rooms=1,
                guidance=3.0,
                solver="flow",
            ),
            objective=dict(size=20, targets=8, times=2, history_noise=0.2),
            seed=0,
            videos=24000,
            pairs=0.7,
            dropout=0.1,
            steps=6000,
            learning_rate=3e-3,
            weight_decay=0.01,
            warmup=100,
            decay=2000,
            ema=0.995,
            log_every=50,
            save_every=250,
            evaluate_every=500,
            evaluate_captions=40,
        )
    )
