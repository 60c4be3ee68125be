"""Beam search by batch size, with random weights."""
