"""The pipelines, and the command that runs them."""
