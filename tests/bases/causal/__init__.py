"""Tests of the causal family."""
