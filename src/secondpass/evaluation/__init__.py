"""Whether a second pass is worth its cost: collections, metrics, statistics, the audit and its reports.

Importing this room loads nothing heavy; each module imports what it needs.
"""
