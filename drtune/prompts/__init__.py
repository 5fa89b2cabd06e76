"""Prompts: records as users bring them, and the checked, de-duplicated set, split once, that is made of them.

It may know contracts and files; it needs no torch.
"""
