"""Trimtab: serve a language model, train it on feedback, release what its users prove better."""
