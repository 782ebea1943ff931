// Arrays in which the operators on the CPU hand numbers to the kernels and take them back.
#pragma once

#include <cstdint>
#include <memory>
#include <new>

namespace betavae_fast {

// An uninitialised array that begins at a cache line, so that no vector of the kernels lies across two.
constexpr std::align_val_t cache_line{64};

template <class T>
struct Delete {
  void operator()(T* x) const { ::operator delete[](x, cache_line); }
};
template <class T>
using Buffer = std::unique_ptr<T[], Delete<T>>;

template <class T>
Buffer<T> buffer(int64_t size) {
  return Buffer<T>(static_cast<T*>(::operator new[](static_cast<size_t>(size) * sizeof(T), cache_line)));
}

}  // namespace betavae_fast
