"""Other people's frameworks: their documents in, ranked by ours, and theirs out again. One framework a file.

Knows: how each spells query, document, score and rank. Refuses to know: how anything is scored. A framework is imported
by its own file only, and where it is missing the error says which extra brings it.

    langchain              a document compressor, a retriever
    llama_index            a node postprocessor
    haystack               a ranker component
    pyterrier              transformers: a reranker, a retriever
    pandas                 frames
    sentence_transformers  a CrossEncoder that is in memory already, as a reranker
    items                  what all share: foreign documents as a Ranking, and back

All keep what every reranker promises: nothing is lost, doubled or mutated, and each document has a status.
"""
