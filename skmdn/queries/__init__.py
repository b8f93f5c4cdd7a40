"""What is computed for mixtures as a whole batch."""
