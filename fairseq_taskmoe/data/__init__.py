"""Task table, and datasets whose examples carry task ids."""
