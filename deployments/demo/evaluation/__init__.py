"""How well the demo model answers: fresh files, offline and over HTTP, and what must make it fail."""
