"""One file a question, one command a file; `benchmarks/README.md` tells the answers."""
