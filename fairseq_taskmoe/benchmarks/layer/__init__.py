"""One MoE layer against a dense network and other libraries' layers."""
