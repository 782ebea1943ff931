// Walks every CTA, thread and tile of many partitions. Each element must belong to exactly one group, nothing may lie
// outside, and both ways to find an element in memory must agree with its row-major index.

#include <cstdio>
#include <cstdlib>
#include <vector>

#include "../../../csrc/cuda/partition.h"
#include "../../../csrc/cuda/log_densities.h"

using namespace betavae_fast;
using namespace betavae_fast::cuda;

namespace {

// The default, where a CTA gets one tile of these few elements, and tunings where it gets some or all tiles of a panel.
Tuning tuned;
const Tuning tunings[] = {Tuning(), {5, 3, 1}, {1, 1 << 20, 1}, {1 << 30, 1, 1}};

void require(bool holds, const char* what, const Problem& p, int group, Keeps keeps) {
  if (holds) return;
  std::printf("%s: rows %lld, outer %lld, inner %lld, group %d, keeps %d, enough_ctas %lld, most_tiles %lld\n", what,
              static_cast<long long>(p.rows), static_cast<long long>(p.outer), static_cast<long long>(p.inner), group,
              static_cast<int>(keeps), static_cast<long long>(tuned.enough_ctas), static_cast<long long>(tuned.most_tiles));
  std::exit(1);
}

// The strides of a layout. `wide` leaves gaps between rows and outers that a 16-byte access could still use.
View strided(const Problem& p, int layout, int group) {
  alignas(16) static char memory[16];
  switch (layout) {
    case 0: return {memory, p.cols(), p.inner, 1};                                           // contiguous
    case 1: return {memory, 2 * p.cols(), p.inner, 1};                                       // packed
    case 2: return {memory, p.outer * (p.inner + group), p.inner + group, 1};                // cropped
    case 3: return {memory, p.cols(), 1, p.outer};                                           // channels last
    case 4: return {memory, 0, p.inner, 1};                                                  // expanded rows
    default: return {memory, 3 * p.cols() + 1, p.inner + 1, 1};                              // nothing aligned
  }
}

void walk(const Problem& p, int group, Keeps keeps) {
  const Partition cut(p.rows, p.cols(), group, keeps, tuned);
  require(cut.item_tiles <= tuned.most_tiles, "too many tiles", p, group, keeps);
  std::vector<int> owners(static_cast<size_t>(cut.elements));
  for (int layout = 0; layout < 6; ++layout) {
    Tiled view;
    static_cast<View&>(view) = strided(p, layout, group);
    const bool vector = vectorize(p, cut, 4, view);
    std::fill(owners.begin(), owners.end(), 0);
    for (int64_t cta = 0; cta < cut.ctas(); ++cta) {
      for (int thread = 0; thread < cta_threads; ++thread) {
        const Place place = cut.place(static_cast<uint32_t>(cta), static_cast<uint32_t>(thread));
        const Column column(p, place.col);
        for (int tile = 0; tile < place.tiles; ++tile) {
          const int count = place.count(tile);
          const int64_t first = place.first + tile * cut.tile_stride;
          if (count == 0) continue;
          require(first >= 0 && first + count <= cut.elements, "outside", p, group, keeps);
          if (cut.groups_aligned()) require(first % group == 0, "unaligned group", p, group, keeps);
          if (cut.groups_in_rows() && keeps != Keeps::nothing)
            require(first / p.cols() == (first + count - 1) / p.cols(), "group in two rows", p, group, keeps);
          if (keeps != Keeps::nothing) require(first % p.cols() == place.col, "column not kept", p, group, keeps);
          if (keeps == Keeps::rows)
            require(first / p.cols() / cut.tile_rows == place.item * cut.item_tiles + tile, "row in another tile", p, group,
                    keeps);
          const int64_t pointer = column.offset(view, place.row) + tile * (view.step / 4);
          Index index(p, first);
          for (int j = 0; j < count; ++j) {
            const int64_t element = first + j, row = element / p.cols(), col = element % p.cols();
            const int64_t offset = row * view.row + col / p.inner * view.outer + col % p.inner * view.inner;
            require(index.offset(view) == offset, "wrong place", p, group, keeps);
            if (vector) require(pointer + j == offset, "wrong pointer", p,
                                group, keeps);
            ++owners[static_cast<size_t>(element)];
            index.next(p);
          }
          if (vector && count == group) require(pointer % group == 0, "unaligned pointer", p, group, keeps);
        }
      }
    }
    for (int owner : owners) require(owner == 1, "not owned once", p, group, keeps);
  }
}

}  // namespace

int main() {
  const int64_t sizes[] = {1, 2, 3, 4, 5, 7, 8, 10, 12, 16, 31, 64, 100, 128, 255, 256, 257, 260, 320, 511, 512,
                           1000, 1001, 1023, 1024, 1025, 2047, 2048, 2050, 4097, 5000};
  for (int group : {4, 8})
    for (Keeps keeps : {Keeps::nothing, Keeps::columns, Keeps::rows})
      for (int64_t rows : {1, 2, 3, 4, 7, 33, 100, 1025})
        for (int64_t inner : sizes)
          for (int64_t outer : {1, 3, 4})
            for (const Tuning& tuning : tunings)
              if (rows * outer * inner <= 40000) {
                tuned = tuning;
                walk({rows, outer, inner}, group, keeps);
              }
  tuned = Tuning();
  // An item has many tiles; the last tile and the last item are cut short.
  for (int64_t cols : {1, 3, 10, 128, 300}) walk({2500001 / cols, 1, cols}, 4, Keeps::columns);
  // Beyond 2^32 elements only the ends are checked.
  for (Keeps keeps : {Keeps::nothing, Keeps::columns, Keeps::rows})
    for (int64_t cols : {1, 7, 128, 1001, 3 << 20}) {
      const Problem p{(int64_t{5} << 32) / cols + 1, 1, cols};
      const Partition cut(p.rows, cols, 8, keeps, tuned);
      int64_t end = 0;
      require(cut.ctas() < (int64_t{1} << 31), "too many CTAs", p, 8, keeps);
      for (int64_t cta = cut.ctas() - cut.panels; cta < cut.ctas(); ++cta)
        for (uint32_t thread = 0; thread < cta_threads; ++thread) {
          const Place place = cut.place(static_cast<uint32_t>(cta), thread);
          const int64_t last = place.first + (place.tiles - 1) * cut.tile_stride + place.last;
          if (place.last > 0 && last > end) end = last;
        }
      require(end == cut.elements && cut.elements == p.rows * cols, "wrong end", p, 8, keeps);
    }
  // The stream is split among no more CTAs than wanted, and every tile belongs to one split.
  for (int64_t wanted : {1, 7, 1024, 4096})
    for (int64_t ctas : {1, 3, 16, 160, 640, 1023, 5000})
      for (int64_t streamed : {1, 31, 33, 1000, 2048, 8192}) {
        const Cut cut(ctas, streamed, {1, 1, wanted});
        const Problem p{ctas, 1, streamed};
        require(cut.splits == 1 || ctas * cut.splits <= wanted, "too many splits", p, 0, Keeps::nothing);
        require(cut.splits <= Cut::max_splits, "too many splits", p, 0, Keeps::nothing);
        int64_t tile = 0;
        for (int64_t split = 0; split < cut.splits; ++split) {
          require(cut.first_tile(split) == tile && cut.last_tile(split) > tile, "wrong split", p, 0, Keeps::nothing);
          tile = cut.last_tile(split);
        }
        require(tile == tiles_of(streamed, others), "wrong last split", p, 0, Keeps::nothing);
      }
  for (int64_t d : {1, 2, 3, 5, 7, 10, 255, 256, 641, 65537, 2147483647})
    for (int64_t n : {0, 1, 2, 9, 10, 254, 255, 256, 65536, 1 << 30, 2147483646, 2147483647})
      require(Divider(d).quotient(static_cast<uint32_t>(n)) == n / d, "wrong quotient", {n, 1, d}, 0, Keeps::nothing);
  std::puts("ok");
}
