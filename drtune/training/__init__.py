"""A training from its configuration to a TunedModel: updates, checkpoints, metrics, processes, nodes; its plan.

It may know methods, rewards, models and prompts, and what stands below them; it knows no evaluation.
"""
