"""What a model did with its experts: routing statistics, their figures, parameter reports."""
