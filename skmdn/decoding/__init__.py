"""Decoders with a code for each row: density, fit, and the codes of new rows."""
