"""Tests of what the page and the report share."""
