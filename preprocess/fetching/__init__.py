"""Download the raw text of a corpus."""
