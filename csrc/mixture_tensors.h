// What the aggregated posterior's tensors must be, whatever the device. Shared by the files that register kernels.
#pragma once

#include "latent_tensors.h"

namespace betavae_fast {

inline void check_mixture(const Tensor& z, const Tensor& mu, const Tensor& logvar, int64_t first_row,
                          int64_t dataset_size, int64_t estimator) {
  STD_TORCH_CHECK(z.dim() == 2 && mu.dim() == 2 && same_shape(mu, logvar) && z.size(1) == mu.size(1),
                  "z must have shape (b, D), mu and logvar (B, D)");
  STD_TORCH_CHECK(mu.scalar_type() == z.scalar_type() && logvar.scalar_type() == z.scalar_type(),
                  "z, mu and logvar must have one dtype");
  STD_TORCH_CHECK(first_row >= 0 && first_row <= mu.size(0) - z.size(0), "z's ", z.size(0), " rows from ", first_row,
                  " on are not all among the ", mu.size(0), " posteriors");
  STD_TORCH_CHECK(dataset_size >= mu.size(0) && dataset_size > 0, "dataset_size must be at least ", mu.size(0),
                  ", got ", dataset_size);
  STD_TORCH_CHECK(estimator == 0 || (estimator == 1 && mu.size(0) != 1),
                  "estimator must be 0 (mws) or, for a batch of 2 or more, 1 (mss)");
}

}  // namespace betavae_fast
