"""Names of which those of parameters, settings and results are composed."""

STACKS = ("encoder", "decoder")
OUTPUT_BIAS = "decoder.output_projection.bias"  # of --decoder-output-bias
# parameters with a row for each word
WORD_ROWS = (
    "encoder.embed_tokens.weight", "decoder.embed_tokens.weight",
    "decoder.output_projection.weight", OUTPUT_BIAS,
)
EXPERTS = ".moe.experts."  # in the names of all parameters of experts, and of no others
