"""Decoder-only models that transformers itself brings: Qwen, Llama, Mistral, GLM-4, Gemma and their like.

Nothing of a model directory is executed: no code of it, no chat template, no pickle.
"""
