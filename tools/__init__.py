"""What made the embedded data and the embedded model."""
