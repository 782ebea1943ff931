"""The launches of Triton kernels that are compiled, with one file for each op."""
