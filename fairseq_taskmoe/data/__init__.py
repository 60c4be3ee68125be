"""Languages, task table, and datasets whose examples have task ids."""
