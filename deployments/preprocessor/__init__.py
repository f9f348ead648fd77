"""Conversations with media to prompt tokens and the model's tensors."""
