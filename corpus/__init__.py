"""Seeded generator of Chinese pre-training text for the embedded base: entities, relations, sentences, tasks."""
