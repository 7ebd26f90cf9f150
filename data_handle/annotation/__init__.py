"""The loop with annotators: results read back, pre-annotations, what to label next."""
