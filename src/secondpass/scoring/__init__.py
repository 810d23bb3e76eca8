"""Text pairs in, logits out. Knows checkpoints, tokens and engines; refuses to know rankings."""
