// Convolutions with kernel 4, stride 2 and padding 1, ordinary and transposed, in bfloat16 on the CPU, independent of
// torch: the arguments of their kernels, and the kernels of each instruction set.
//
// An ordinary convolution goes from a fine image to a coarse one of half its height and width, a transposed one back.
// Images are stored as (image, row, column, channel); the weight has the indices (coarse channel, fine channel, row,
// column).
#pragma once

#include <cstdint>

#include "../include/storage.h"

namespace betavae_fast {

struct Convolution {
  int64_t images, rows, cols;  // rows and columns of a coarse image
  int64_t coarse, fine;        // channels

  // A multiple of 16 coarse channels; of fine ones, a multiple of 16, or up to four: an image's colours. With 512
  // channels oneDNN's kernels are as fast; with more, the partial sums of a gradient would take gigabytes.
  bool served() const {
    const bool few = 0 < coarse && coarse < 512 && 0 < fine && fine < 512;
    return few && coarse % 16 == 0 && (fine % 16 == 0 || fine <= 4);
  }

  // The fine image, shifted by its padding, is cut into cells of 2x2 pixels.
  int64_t cells() const { return (rows + 1) * (cols + 1); }  // of an image
  int64_t cell() const { return 4 * fine; }                  // the numbers in a cell
  int64_t padded_cell() const { return (cell() + 15) / 16 * 16; }

  // Images go through the kernels in parts whose buffers fit into L2. Sums over parts are taken in groups of parts.
  int64_t part() const { return cells() < 512 ? 512 / cells() : 1; }
  int64_t parts() const { return (images + part() - 1) / part(); }
  int64_t parts_of_group() const { return parts() < 16 ? 1 : parts() < 1024 ? (parts() + 15) / 16 : parts() / 64; }
  int64_t groups() const { return (parts() + parts_of_group() - 1) / parts_of_group(); }

  int64_t packed_size() const { return 4 * coarse * padded_cell(); }
  int64_t partial_size() const { return 4 * cell() * (coarse + 1) + coarse; }
};

struct ConvolutionWeight {
  const void* data;
  bool narrow;  // bfloat16, otherwise float32
  int64_t strides[4];
};

struct ConvolutionForward : Convolution {
  bool transposed, relu;
  const BFloat16* input;
  const BFloat16* packed;
  const float* bias;  // one for each column of the product
  BFloat16* output;
};

struct ConvolutionBackward : Convolution {
  bool transposed;
  const BFloat16* grad;
  const BFloat16* output;  // of the ReLU, which masks the gradient; null if there is none
  const BFloat16* input;
  const BFloat16* packed;
  BFloat16* grad_input;  // null if not wanted
  float* partials;       // of each group: the sums of the weight's gradient, then of the bias's
};

struct ConvolutionKernels {
  // Brings the weight of some coarse channels into tiles, for the sum that leads to the fine or to the coarse image.
  void (*pack)(const Convolution&, const ConvolutionWeight&, bool to_fine, BFloat16* packed, int64_t first,
               int64_t last);
  void (*forward)(const ConvolutionForward&, int64_t first_part, int64_t last_part);
  void (*backward)(const ConvolutionBackward&, int64_t first_group, int64_t last_group);
  // Adds up the groups' sums of some sixteens of coarse channels.
  void (*add)(const ConvolutionBackward&, float* grad_weight, const int64_t* strides, int64_t first, int64_t last);
};

}  // namespace betavae_fast
