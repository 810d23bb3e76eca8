"""What of a ranking goes into a prompt. Selectors, one a file, come after ranking and are no part of it.

Knows: rankings, what may leave them, and why. Refuses to know: how anything is scored. Each keeps the promises that
secondpass.testing.check_selector checks.

    threshold        by probability: fixed, or with a guarantee
    risk             that guarantee: how it is found, and its file
    near_duplicates  what repeats a document further up
    mmr              relevance against repetition (maximal marginal relevance)
    parents          chunks of one document together, and not too many
    token_budget     what fits
    outcome          what all share: the ranking that is left, and the trace of what is not

Nothing is imported here.
"""
