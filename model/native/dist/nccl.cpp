// libtorch's NCCL, which PyTorch's `nccl` backend is, too. This program is built against the part of libtorch
// for CPUs, so the constructors are found by name in its part for GPUs, which is loaded by then. The name
// of a constructor has the types of all its arguments, so another one has another name and is not found.

#include <cstddef>
#include <cstring>
#include <new>

#include <dlfcn.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>

#include "nccl.h"

namespace {

using Options = c10d::Backend::Options;

template <typename Function>
Function* find(const char* name) {
  auto* const found = dlsym(RTLD_DEFAULT, name);
  TORCH_CHECK(found != nullptr, "this libtorch has no ", name, ": its part for GPUs is not loaded, or is another");
  return reinterpret_cast<Function*>(found);
}

// Memory of an object that is constructed in it, and freed by its own destructor: more than either takes (248
// and 1,112 bytes in libtorch 2.11).
void* room() {
  constexpr std::size_t BYTES = 64 << 10;
  return std::memset(::operator new(BYTES), 0, BYTES);
}

}  // namespace

namespace rsflow {

c10::intrusive_ptr<c10d::Backend> open_nccl(const c10::intrusive_ptr<c10d::Store>& store, int rank,
                                            int size, std::chrono::milliseconds timeout) {
  auto* const construct_options =
      find<void(void*, bool)>("_ZN4c10d16ProcessGroupNCCL7OptionsC1Eb");
  auto* const construct = find<void(void*, c10::intrusive_ptr<c10d::Store>, int, int,
                                    c10::intrusive_ptr<Options>)>(
      "_ZN4c10d16ProcessGroupNCCLC1EN3c1013intrusive_ptrINS_5StoreENS1_6detail34intrusive_target_default_"
      "null_typeIS3_EEEEiiNS2_INS0_7OptionsENS5_IS8_EEEE");
  auto* memory = room();
  constexpr bool HIGH_PRIORITY_STREAM = false;
  construct_options(memory, HIGH_PRIORITY_STREAM);
  auto options = c10::intrusive_ptr<Options>::unsafe_steal_from_new(static_cast<Options*>(memory));
  options->timeout = timeout;
  memory = room();
  try {
    construct(memory, store, rank, size, options);
  } catch (...) {
    ::operator delete(memory);
    throw;
  }
  return c10::intrusive_ptr<c10d::Backend>::unsafe_steal_from_new(
      static_cast<c10d::Backend*>(memory));
}

}  // namespace rsflow

// The version of NCCL as its own number, 22705 for 2.27.5; 0 where there is none.
extern "C" int rsflow_nccl_version() {
  auto* const version = reinterpret_cast<int (*)(int*)>(dlsym(RTLD_DEFAULT, "ncclGetVersion"));
  int number = 0;
  return version != nullptr && version(&number) == 0 ? number : 0;
}
