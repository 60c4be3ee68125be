"""Estimates for training on N devices: parameters, memory, traffic, checkpoint sizes."""
