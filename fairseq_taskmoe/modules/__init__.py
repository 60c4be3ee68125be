"""The mixture-of-experts layer and the transformer layers around it."""
