"""Seeded generator of Chinese pre-training text: entities, relations, sentences, tasks."""
