"""Checkpoints: read safely, written atomically, in shards, averaged, converted."""
