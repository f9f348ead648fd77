"""Synthetic pictures, clips and sounds whose truth is known: what to draw or play, how, and how to write it as a file."""
