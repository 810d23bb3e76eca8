"""First stages, and the index that they read.

Knows: how candidates are found. Refuses to know: how they are reordered.

    bm25, dense, hybrid      retrievers; the first two with the part of an index that is theirs
    sqlite, postgres, qdrant, lucene  retrievers over other people's engines, with tables of theirs or ones of ours
    fallback                 the first of several retrievers that answers
    rows, filling            what these share: documents as rows, and how they get there
    index, folder, documents  the index: in memory, on disk, and its documents
    words, ranked            what retrievers share: the words of a text; ties and hits

Nothing is imported here, so that one retriever never pays for another's engine.
"""
