"""The tuned model against its base, the champion and references on one set of prompts; its report, studies with people.

It may know methods, rewards, models and prompts, and what stands below them; it knows no training.
"""
