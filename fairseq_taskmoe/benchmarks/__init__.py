"""Throughput and memory of what this project computes, against what it replaces."""
