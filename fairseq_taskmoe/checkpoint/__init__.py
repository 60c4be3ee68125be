"""Checkpoints: read them safely, cut sub-networks out of them."""
