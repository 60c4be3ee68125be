"""Translate all directions with one model, score them, tabulate the scores."""
