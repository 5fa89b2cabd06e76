"""Deep reward tuning for text-to-image diffusion models. Importing this package imports nothing heavy."""
