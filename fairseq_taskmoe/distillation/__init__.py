"""Training data for a student from the translations of a teacher."""
