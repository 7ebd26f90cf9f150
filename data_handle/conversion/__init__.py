"""From sentences in foreign formats to training files: checked, split, written."""
