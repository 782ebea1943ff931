"""Triton kernels and the launches around them; nothing here is imported before the backend is asked for."""
