"""The HTTP service over extracted models, and the pipe."""
