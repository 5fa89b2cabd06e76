"""Step 1: take the prompts at a stated version of the data."""
