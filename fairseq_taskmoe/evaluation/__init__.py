"""Translate all directions with one model; results, significance, test sets."""
