"""Whether a tuned model deserves to be published, and where published models stand: gate, registry, model card.

It may know evaluation, and what stands below it; it needs no torch.
"""

REGISTRY = "runs/registry"
"""Where models are published on this machine when nothing is said."""
