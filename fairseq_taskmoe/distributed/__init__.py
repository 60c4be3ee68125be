"""Experts spread over ranks: groups, exchange of rows, correct gradients, start-up checks."""
