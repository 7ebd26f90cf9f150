"""From JSONL lines to token features and batches; the data linter and the DuIE converter."""
