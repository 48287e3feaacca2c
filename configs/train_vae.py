r"""The embedded VAE: 9 frames of 32x32 to 5 latent frames of 8x8x8.

python -m experiments.train_vae --config=configs/train_vae.py --workdir=DIR

2 CPU cores: 0.3 hours beside other work (0.7 s a step). At the end the reconstructions of 60 of 60
held-out captions keep every fact; 29.1 dB.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Settings of `experiments.train_vae`."""
    return ConfigDict(
        dict(
            model=dict(
                latent_channels=8,
                encoder_channels=(8, 16, 32),
                encoder_layers=(1, 1, 1),
                encoder_spatial_down=(True, True, False),
                encoder_temporal_down=(True, False, False),
                encoder_groups=4,
                decoder_channels=(16, 16, 32),
                decoder_layers=(1, 1, 1),
                decoder_spatial_up=(True, True, False),
                decoder_temporal_up=(True, False, False),
                decoder_groups=4,
            ),
            seed=0,
            steps=1500,
            batch=8,
            pairs=0.7,
            lit_weight=4.0,
            kl_weight=3e-4,
            learning_rate=6e-3,
            weight_decay=0.0,
            warmup=50,
            decay=900,
            ema=0.99,
            log_every=50,
            save_every=250,
            evaluate_every=500,
            evaluate_captions=60,
        )
    )
