"""Estimates for a model on N devices: parameters, memory, traffic, time."""
