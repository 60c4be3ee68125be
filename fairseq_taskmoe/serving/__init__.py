"""The HTTP service for extracted models, and translation from standard input to output."""
