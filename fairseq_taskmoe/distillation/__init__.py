"""Training data for a student model: translations by a teacher model."""
