"""Beside the way: hold what comes in against what was trained on."""
