"""Fitting a cross-encoder: recipe, data, negatives, train, export.

Knows: pairs with a known positive, and how to make a checkpoint from them. Refuses
to know: how rankings are made at run time, and every test split. torch and
sentence-transformers come with the extra `train` and are imported at use.
"""
