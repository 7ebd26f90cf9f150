"""What an answer is: the prompt, triplets and their notation, the schema."""
