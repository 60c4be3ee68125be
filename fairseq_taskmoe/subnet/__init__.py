"""The sub-network of a language pair: extracted, pruned, trimmed, written, verified."""
