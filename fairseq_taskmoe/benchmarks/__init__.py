"""Throughput and memory of the MoE layers and models, compared with dense ones."""
