"""Step 5: publish the tuned model."""
