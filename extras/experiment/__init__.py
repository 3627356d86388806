"""Experiments: a baseline and arms, trained with several seeds each, compared by a rule that was written before."""
