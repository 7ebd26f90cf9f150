"""Tests of the page and the report in a real browser."""
