"""Step 3: compare the tuned model with its base in a process of its own."""
