"""A static site about the algorithm files, made from the files themselves and from benchmarks/results."""
