"""Measures what a trained model has learned and draws it."""
