"""Expert parallelism: process groups, exchange of rows, gradients, launching and saving."""
