"""First stages: each file one Retriever.

Knows: how candidates are found. Refuses to know: how they are reordered.
Nothing is imported here, so that one retriever never pays for another's engine.
"""
