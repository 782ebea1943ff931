"""Adapters to libraries people already use; each file imports its library, nothing else here does."""
