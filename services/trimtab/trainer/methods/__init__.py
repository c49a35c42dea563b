"""How a policy is trained: a module for each method, and what several of them share."""
