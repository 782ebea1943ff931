"""Triton kernels and their launches. Nothing here is imported before the backend is asked for."""
