"""Tests of task."""
