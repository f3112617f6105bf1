"""Evaluators of encoders: `masked_lm` has held-out loss and accuracy, by source, and a few guesses to look at."""
