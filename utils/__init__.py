"""Small shared subjects, one file each: console, prompt, triplet notation, memory, checkpoints, metrics."""
