"""Trains many models: a grid of settings, each with several seeds, and one report about all of them."""
