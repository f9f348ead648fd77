"""Choosing the next token of each row."""
