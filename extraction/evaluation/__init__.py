"""Scoring extractions against labelled data."""
