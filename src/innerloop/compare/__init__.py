"""Does meta-learning help here? Methods on the same episodes, with the same tuning budget, and what they show."""
