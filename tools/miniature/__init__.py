"""What trains the embedded model: `make miniature`."""
