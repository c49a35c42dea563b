"""How a policy is judged before it meets users: figures on held-out prompts, and gates."""
