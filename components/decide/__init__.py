"""Step 4: hold the report against the policy."""
