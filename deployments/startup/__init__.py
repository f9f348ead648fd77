"""What is checked before anything starts: a wrong setting ends the start with one sentence. Knows no Ray."""
