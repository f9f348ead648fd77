"""Kernels in Triton. Imported where a card is, or Triton's interpreter: never at the start of a replica on a CPU."""
