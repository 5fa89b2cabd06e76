"""Step 2: tune the model, in a process of its own or as a job of a cluster."""
