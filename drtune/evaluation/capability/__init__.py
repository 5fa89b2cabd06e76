"""Whether tuning took away what the base could do: compositional prompts, and judges who say what a picture shows."""
