"""What is below the public surface of an estimator of p(y | x)."""
