"""The pipelines on this machine, without containers."""
