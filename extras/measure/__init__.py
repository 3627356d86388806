"""What scripts.measure compares models by: their loss on texts, their speed, and their answers to prompts."""
