"""One MoE layer, compared with a dense network and with the layers of other libraries."""
