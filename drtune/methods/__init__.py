"""How a reward reaches the weights: for each method a plan, and the one sweep back that carries out them all.

It may know models and prompts, and what stands below them; a reward is only called here.
"""
