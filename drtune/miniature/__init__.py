"""The embedded model: a tiny Stable Diffusion XL of a drawn world, with the code that trained it."""
