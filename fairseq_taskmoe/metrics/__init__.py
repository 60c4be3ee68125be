"""BLEU, chrF and the floors beside them; nothing here knows a model."""
