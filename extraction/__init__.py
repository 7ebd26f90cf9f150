"""Triplets out of sentences: schema, answer parsing, metrics, generation, files."""
