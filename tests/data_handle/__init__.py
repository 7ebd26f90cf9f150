"""Tests of data_handle."""
