"""BLEU, chrF and baseline scores (floors), independent of models."""
