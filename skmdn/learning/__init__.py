"""Networks with a member axis, what they minimise, and the loop that does it."""
