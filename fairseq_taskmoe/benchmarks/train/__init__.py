"""A training step of whole models, compared with dense models and fairseq's own."""
