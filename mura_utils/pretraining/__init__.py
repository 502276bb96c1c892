"""Weights for radiographs without data: a backbone trained on endless phantoms."""
