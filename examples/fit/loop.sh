#!/usr/bin/env bash
# From judgments to a model in use, and back: see README.md.
set -euo pipefail

# Is there something to gain? Recall first: what the pool lacks no training brings back.
secondpass audit --split dev

# Learn from the training queries, with the first stage's own candidates as negatives; stop by the dev queries.
secondpass train --dev dev data/fitters --out my-model --depth 60

# Test queries decide, in the domain and outside it. A refusal ends the script here, with the exit code 3.
secondpass promote my-model --to store --split test --general data/plain@test

# What is in use, what it was trained on, what it was promoted for.
secondpass models store
secondpass index data/fitters --out index
secondpass search index "any M12 carrots left? sea" --model store --depth 60 --top-k 3

# And if it was a mistake after all:
secondpass rollback store
