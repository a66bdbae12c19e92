"""A learner and its adapters resolved into one stack: who answers where, with checks and explanations."""
