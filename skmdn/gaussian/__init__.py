"""What is below the public surface of Gaussian mixtures and of their classifier."""
