"""Adapters to libraries that people already use. Only the adapter's own file imports its library."""
