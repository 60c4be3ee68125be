"""The version, in a file of its own: setup.py reads it before torch and fairseq are there."""

__version__ = "0.1.0"
