"""The GPU kernels compiled for GPUs that need not be there, and their machine code read; its budgets are in budgets/."""
