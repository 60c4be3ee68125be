"""A training step of whole models, against dense ones and fairseq's own."""
