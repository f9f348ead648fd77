"""Tensor parallelism: one model on several devices, a process each. Rank 0 has the engine, the others follow it."""
