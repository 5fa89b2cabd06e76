"""Last step, whatever the others came to: say what came of the run, and see that no job is left."""
