"""Names of which those of parameters, settings and results are composed."""

STACKS = ("encoder", "decoder")
EXPERTS = ".moe.experts."  # in the names of all parameters of experts, and of no others
