"""Measurements beside others: the BEAM, and what else Python has. Run from a clone; install it editable."""
