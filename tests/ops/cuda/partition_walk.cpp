// Walks every CTA, thread and tile of many partitions. Each element must belong to exactly one group, nothing may lie
// outside, and both ways to find an element in memory must agree with its row-major index.

#include <cstdio>
#include <cstdlib>
#include <vector>

#include "../../../csrc/cuda/log_densities.h"
#include "../../../csrc/cuda/partition.h"

using namespace betavae_fast;
using namespace betavae_fast::cuda;

namespace {

// The default, where a CTA gets one tile of these few elements, and tunings where it gets some or all tiles of a panel.
Tuning tuned;
const Tuning tunings[] = {Tuning(), {5, 3, 1}, {1, 1 << 20, 1}, {1 << 30, 1, 1}};

void require(bool holds, const char* what, const Problem& p, int group, Reduction reduction) {
  if (holds) return;
  std::printf("%s: rows %lld, outer %lld, inner %lld, group %d, reduction %d, enough_ctas %lld, most_tiles %lld\n",
              what, static_cast<long long>(p.rows), static_cast<long long>(p.outer), static_cast<long long>(p.inner),
              group, static_cast<int>(reduction), static_cast<long long>(tuned.enough_ctas),
              static_cast<long long>(tuned.most_tiles));
  std::exit(1);
}

// The strides of a layout. `wide` leaves gaps between rows and outers that a 16-byte access could still use.
View strided(const Problem& p, int layout, int group) {
  alignas(16) static char memory[16];
  switch (layout) {
    case 0: return {memory, p.cols(), p.inner, 1};                             // contiguous
    case 1: return {memory, 2 * p.cols(), p.inner, 1};                         // packed
    case 2: return {memory, p.outer * (p.inner + group), p.inner + group, 1};  // cropped
    case 3: return {memory, p.cols(), 1, p.outer};                             // channels last
    case 4: return {memory, 0, p.inner, 1};                                    // expanded rows
    default: return {memory, 3 * p.cols() + 1, p.inner + 1, 1};                // nothing aligned
  }
}

void walk(const Problem& p, int group, Reduction reduction) {
  const Partition partition(p.rows, p.cols(), group, reduction, tuned);
  require(partition.item_tiles <= tuned.most_tiles, "too many tiles", p, group, reduction);
  std::vector<int> owners(static_cast<size_t>(partition.elements));
  for (int layout = 0; layout < 6; ++layout) {
    Tiled view;
    static_cast<View&>(view) = strided(p, layout, group);
    const bool vector = vectorize(p, partition, 4, view);
    std::fill(owners.begin(), owners.end(), 0);
    for (int64_t cta = 0; cta < partition.ctas(); ++cta) {
      for (int thread = 0; thread < cta_threads; ++thread) {
        const ThreadElements elements =
            partition.thread_elements(static_cast<uint32_t>(cta), static_cast<uint32_t>(thread));
        const Column column(p, elements.col);
        for (int tile = 0; tile < elements.tiles; ++tile) {
          const int count = elements.count(tile);
          const int64_t first = elements.first + tile * partition.tile_stride;
          if (count == 0) continue;
          require(first >= 0 && first + count <= partition.elements, "outside", p, group, reduction);
          if (partition.groups_aligned()) require(first % group == 0, "unaligned group", p, group, reduction);
          if (partition.groups_in_rows() && reduction != Reduction::none)
            require(first / p.cols() == (first + count - 1) / p.cols(), "group in two rows", p, group, reduction);
          if (reduction != Reduction::none)
            require(first % p.cols() == elements.col, "column not kept", p, group, reduction);
          if (reduction == Reduction::sample)
            require(first / p.cols() / partition.tile_rows == elements.item * partition.item_tiles + tile,
                    "row in another tile", p, group, reduction);
          const int64_t pointer = column.offset(view, elements.row) + tile * (view.step / 4);
          Index index(p, first);
          for (int j = 0; j < count; ++j) {
            const int64_t element = first + j, row = element / p.cols(), col = element % p.cols();
            const int64_t offset = row * view.row + col / p.inner * view.outer + col % p.inner * view.inner;
            require(index.offset(view) == offset, "wrong place", p, group, reduction);
            if (vector) require(pointer + j == offset, "wrong pointer", p, group, reduction);
            ++owners[static_cast<size_t>(element)];
            index.next(p);
          }
          if (vector && count == group) require(pointer % group == 0, "unaligned pointer", p, group, reduction);
        }
      }
    }
    for (int owner : owners) require(owner == 1, "not owned once", p, group, reduction);
  }
}

}  // namespace

int main() {
  const int64_t sizes[] = {1,   2,   3,   4,   5,   7,    8,    10,   12,   16,   31,   64,   100,  128,  255, 256,
                           257, 260, 320, 511, 512, 1000, 1001, 1023, 1024, 1025, 2047, 2048, 2050, 4097, 5000};
  for (int group : {4, 8})
    for (Reduction reduction : {Reduction::none, Reduction::dim, Reduction::sample})
      for (int64_t rows : {1, 2, 3, 4, 7, 33, 100, 1025})
        for (int64_t inner : sizes)
          for (int64_t outer : {1, 3, 4})
            for (const Tuning& tuning : tunings)
              if (rows * outer * inner <= 40000) {
                tuned = tuning;
                walk({rows, outer, inner}, group, reduction);
              }
  tuned = Tuning();
  // An item has many tiles; the last tile and the last item are cut short.
  for (int64_t cols : {1, 3, 10, 128, 300}) walk({2500001 / cols, 1, cols}, 4, Reduction::dim);
  // Beyond 2^32 elements only the ends are checked.
  for (Reduction reduction : {Reduction::none, Reduction::dim, Reduction::sample})
    for (int64_t cols : {1, 7, 128, 1001, 3 << 20}) {
      const Problem p{(int64_t{5} << 32) / cols + 1, 1, cols};
      const Partition partition(p.rows, cols, 8, reduction, tuned);
      int64_t end = 0;
      require(partition.ctas() < (int64_t{1} << 31), "too many CTAs", p, 8, reduction);
      for (int64_t cta = partition.ctas() - partition.panels; cta < partition.ctas(); ++cta)
        for (uint32_t thread = 0; thread < cta_threads; ++thread) {
          const ThreadElements elements = partition.thread_elements(static_cast<uint32_t>(cta), thread);
          const int64_t last = elements.first + (elements.tiles - 1) * partition.tile_stride + elements.last;
          if (elements.last > 0 && last > end) end = last;
        }
      require(end == partition.elements && partition.elements == p.rows * cols, "wrong end", p, 8, reduction);
    }
  // The stream is split among no more CTAs than wanted, and every tile belongs to one split.
  for (int64_t wanted : {1, 7, 1024, 4096})
    for (int64_t ctas : {1, 3, 16, 160, 640, 1023, 5000})
      for (int64_t streamed : {1, 31, 33, 1000, 2048, 8192}) {
        const Splits splits(ctas, streamed, {1, 1, wanted});
        const Problem p{ctas, 1, streamed};
        require(splits.count == 1 || ctas * splits.count <= wanted, "too many splits", p, 0, Reduction::none);
        require(splits.count <= Splits::max_splits, "too many splits", p, 0, Reduction::none);
        int64_t tile = 0;
        for (int64_t split = 0; split < splits.count; ++split) {
          require(splits.first_tile(split) == tile && splits.last_tile(split) > tile, "wrong split", p, 0,
                  Reduction::none);
          tile = splits.last_tile(split);
        }
        require(tile == tiles_of(streamed, others), "wrong last split", p, 0, Reduction::none);
      }
  for (int64_t d : {1, 2, 3, 5, 7, 10, 255, 256, 641, 65537, 2147483647})
    for (int64_t n : {0, 1, 2, 9, 10, 254, 255, 256, 65536, 1 << 30, 2147483646, 2147483647})
      require(Divider(d).quotient(static_cast<uint32_t>(n)) == n / d, "wrong quotient", {n, 1, d}, 0, Reduction::none);
  std::puts("ok");
}
