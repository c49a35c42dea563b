"""What a training step is made of: losses, KL, advantages; the optimizer, checkpoints and progress around it."""
