"""The fetch stage: what a URL names becomes one array of bytes, within limits of size, time and where it may look."""
