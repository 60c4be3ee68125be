"""Additions to fairseq's trainer: checks at the start, resuming, updates, initial weights."""
