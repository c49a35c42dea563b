"""The reward model: one likelihood for each kind of feedback, trained together and judged before it may decide."""
