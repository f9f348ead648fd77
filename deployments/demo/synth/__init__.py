"""Synthetic pictures, clips and sounds whose truth is known: what to show or play, how, and as which file."""
