"""Compiles the GPU kernels without a GPU and reads their machine code; the budgets for it are in benchmarks/budgets/."""
