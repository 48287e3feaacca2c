"""Open-Sora 1.2: text to video by rectified flow, in its variational autoencoder's latents."""
