"""Models of other kinds made into checkpoints of transformer_task_moe, and upcycling."""
