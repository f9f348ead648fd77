"""What several stages need to know about media. Knows nothing of Ray, HTTP or models."""
