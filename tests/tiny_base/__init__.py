"""Tests of tiny_base."""
