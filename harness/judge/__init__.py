"""A language model as judge of the answers of a finished run (arXiv 2306.05685)."""
