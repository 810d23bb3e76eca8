"""Rerankers, one a file. Each keeps the promises that secondpass.testing checks."""
