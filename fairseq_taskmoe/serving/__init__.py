"""Translating text with extracted models: in a pipe, and as an HTTP service."""
