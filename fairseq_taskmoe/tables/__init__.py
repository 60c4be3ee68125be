"""The tables and figures of the paper, from results files of any runs."""
