"""The demo collection: real documents that lie on every machine with a Python, and questions with judgments.

Knows: how documents are made of the standard library, and which questions go with them.
Refuses to know: retrieval, reranking and how a collection is evaluated.
"""
