"""What can be asked about synthetic media, in which words, and what is true."""
