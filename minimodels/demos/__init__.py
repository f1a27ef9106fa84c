"""Five families that learn from scratch in minutes on a CPU: their data, the training loop, the judge."""
