"""The workshop that makes the embedded base: corpus, tokenizer, pre-training, evaluation."""
