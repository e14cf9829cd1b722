"""Verdicts of a language model on the answers of a run that has ended (LLM as a judge, arXiv 2306.05685)."""
