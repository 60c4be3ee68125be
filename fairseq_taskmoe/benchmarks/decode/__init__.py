"""Beam search by batch size, on random weights."""
