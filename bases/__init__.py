"""Base models: what a family answers, LoRA on a base, and the families themselves."""
