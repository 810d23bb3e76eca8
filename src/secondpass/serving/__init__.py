"""Reranking over HTTP: the formats that clients already speak, who is let in, and what is told of it.

Needs the extra `serve`. Importing this room opens no model and no socket.
"""
