// The convolutions with kernel 4, stride 2 and padding 1 on the CPU.

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <array>
#include <tuple>
#include <vector>

#include "../cpu/dispatch.h"
#include "buffer.h"
#include "cpu.h"

namespace betavae_fast {
namespace {

// A tensor of images (batch, channels, height, width) in channels_last. It is no view of another tensor, because
// autograd lets nobody write over a view that an autograd.Function returns.
Tensor empty_images(const Tensor& like, int64_t batch, int64_t channels, int64_t height, int64_t width) {
  const int64_t sizes[] = {batch, channels, height, width};
  return with_huge_pages(torch::stable::empty(Sizes(sizes, 4), ScalarType::BFloat16, std::nullopt, like.device(),
                                              std::nullopt, torch::headeronly::MemoryFormat::ChannelsLast));
}

const BFloat16* images(const Tensor& x, int64_t batch, int64_t channels, int64_t height, int64_t width) {
  STD_TORCH_CHECK(x.is_cpu() && x.scalar_type() == ScalarType::BFloat16 && x.dim() == 4,
                  "expected bfloat16 images on the CPU, got ", toString(x.scalar_type()), " ", shape(x));
  const int64_t sizes[] = {batch, channels, height, width};
  const int64_t strides[] = {height * width * channels, 1, width * channels, channels};
  for (int d = 0; d < 4; ++d) {
    STD_TORCH_CHECK(x.size(d) == sizes[d], "expected images of another shape, got ", shape(x));
    STD_TORCH_CHECK(x.size(d) == 1 || x.stride(d) == strides[d], "expected images in channels_last");
  }
  return static_cast<const BFloat16*>(x.data_ptr());
}

bool has_kernels(const Convolution& c) { return convolution_kernels() != nullptr && c.served(); }

Convolution described(const Tensor& input, const Tensor& weight, bool transposed) {
  STD_TORCH_CHECK(input.dim() == 4 && weight.dim() == 4 && weight.size(2) == 4 && weight.size(3) == 4,
                  "expected images and 4x4 kernels, got ", shape(input), " and ", shape(weight));
  STD_TORCH_CHECK(transposed || (input.size(2) % 2 == 0 && input.size(3) % 2 == 0), "expected even images, got ",
                  shape(input));
  const int64_t halves = transposed ? 1 : 2;
  const Convolution c{input.size(0), input.size(2) / halves, input.size(3) / halves, weight.size(0), weight.size(1)};
  STD_TORCH_CHECK(has_kernels(c), "no kernel for this convolution on this CPU");
  return c;
}

const BFloat16* coarse_images(const Convolution& c, const Tensor& x) {
  return images(x, c.images, c.coarse, c.rows, c.cols);
}
const BFloat16* fine_images(const Convolution& c, const Tensor& x) {
  return images(x, c.images, c.fine, 2 * c.rows, 2 * c.cols);
}
Tensor empty_coarse(const Convolution& c, const Tensor& like) {
  return empty_images(like, c.images, c.coarse, c.rows, c.cols);
}
Tensor empty_fine(const Convolution& c, const Tensor& like) {
  return empty_images(like, c.images, c.fine, 2 * c.rows, 2 * c.cols);
}

Buffer<BFloat16> packed(const Convolution& c, const Tensor& weight, bool to_fine) {
  STD_TORCH_CHECK(weight.scalar_type() == ScalarType::BFloat16 || weight.scalar_type() == ScalarType::Float,
                  "expected a weight in float32 or bfloat16");
  ConvolutionWeight view{weight.data_ptr(), weight.scalar_type() == ScalarType::BFloat16, {}};
  for (int d = 0; d < 4; ++d) view.strides[d] = weight.stride(d);
  Buffer<BFloat16> result = buffer<BFloat16>(c.packed_size());
  std::fill_n(result.get(), c.packed_size(), BFloat16{0});
  torch::stable::parallel_for(0, c.coarse, 16, [&](int64_t first, int64_t last) {
    convolution_kernels()->pack(c, view, to_fine, result.get(), first, last);
  });
  return result;
}

Tensor convolution(Tensor input, Tensor weight, Tensor bias, bool transposed, bool relu) {
  ConvolutionForward p{described(input, weight, transposed)};
  p.transposed = transposed;
  p.relu = relu;
  p.input = transposed ? coarse_images(p, input) : fine_images(p, input);
  Tensor output = transposed ? empty_fine(p, input) : empty_coarse(p, input);
  p.output = static_cast<BFloat16*>(output.data_ptr());
  const Buffer<BFloat16> weights = packed(p, weight, transposed);
  p.packed = weights.get();
  const int64_t channels = transposed ? p.fine : p.coarse;
  STD_TORCH_CHECK(bias.scalar_type() == ScalarType::Float && bias.dim() == 1 && bias.size(0) == channels,
                  "expected a bias in float32 for ", channels, " channels");
  const float* number = static_cast<const float*>(bias.data_ptr());
  std::vector<float> columns(static_cast<size_t>(transposed ? p.padded_cell() : p.coarse));
  for (int64_t n = 0; n < (transposed ? p.cell() : p.coarse); ++n)
    columns[static_cast<size_t>(n)] = number[n % channels * bias.stride(0)];
  p.bias = columns.data();
  torch::stable::parallel_for(0, p.parts(), 1,
                              [&](int64_t first, int64_t last) { convolution_kernels()->forward(p, first, last); });
  return output;
}

std::tuple<Tensor, Tensor, Tensor> convolution_backward(Tensor grad, std::optional<Tensor> output, Tensor input,
                                                        Tensor weight, bool transposed, bool need_input) {
  ConvolutionBackward p{described(input, weight, transposed)};
  p.transposed = transposed;
  p.input = transposed ? coarse_images(p, input) : fine_images(p, input);
  p.grad = transposed ? fine_images(p, grad) : coarse_images(p, grad);
  p.output = !output ? nullptr : transposed ? fine_images(p, *output) : coarse_images(p, *output);
  Tensor grad_input = !need_input ? no_elements(input) : transposed ? empty_coarse(p, input) : empty_fine(p, input);
  Buffer<BFloat16> weights;
  p.packed = nullptr;
  p.grad_input = nullptr;
  if (need_input) {
    weights = packed(p, weight, !transposed);
    p.packed = weights.get();
    p.grad_input = static_cast<BFloat16*>(grad_input.data_ptr());
  }
  const Buffer<float> partials = buffer<float>(p.groups() * p.partial_size());
  p.partials = partials.get();
  torch::stable::parallel_for(0, p.groups(), 1,
                              [&](int64_t first, int64_t last) { convolution_kernels()->backward(p, first, last); });
  Tensor grad_weight = empty_like(weight, ScalarType::Float);
  std::array<int64_t, 4> strides;
  for (int d = 0; d < 4; ++d) strides[static_cast<size_t>(d)] = grad_weight.stride(d);
  torch::stable::parallel_for(0, p.coarse / 16, 1, [&](int64_t first, int64_t last) {
    convolution_kernels()->add(p, static_cast<float*>(grad_weight.data_ptr()), strides.data(), first, last);
  });
  const int64_t channels = transposed ? p.fine : p.coarse;
  Tensor grad_bias = torch::stable::new_empty(input, Sizes(&channels, 1), ScalarType::Float);
  float* to = static_cast<float*>(grad_bias.data_ptr());
  std::fill_n(to, channels, 0.0f);
  for (int64_t group = 0; group < p.groups(); ++group) {
    const float* sums = p.partials + group * p.partial_size() + 4 * p.cell() * p.coarse;
    for (int64_t n = 0; n < (transposed ? p.cell() : p.coarse); ++n) to[n % channels] += sums[n];
  }
  return {grad_input, grad_weight, grad_bias};
}

}  // namespace
}  // namespace betavae_fast

STABLE_TORCH_LIBRARY_IMPL(betavae_fast, CPU, m) {
  m.impl("convolution", TORCH_BOX(&betavae_fast::convolution));
  m.impl("convolution_backward", TORCH_BOX(&betavae_fast::convolution_backward));
}

// Tells whether this CPU has kernels for a weight of so many coarse and fine channels.
extern "C" __attribute__((visibility("default"))) bool betavae_fast_convolves(int64_t coarse, int64_t fine) {
  return betavae_fast::has_kernels({0, 0, 0, coarse, fine});
}
