"""The Triton kernels' launches that are compiled: a file for each op."""
