"""Decoding under a constraint: grammar, vocabulary, drafts, rows of the cache."""
