"""Latte-1: text to video by diffusion, in the latents of an autoencoder of images."""
