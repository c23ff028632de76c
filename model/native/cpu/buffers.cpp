// Every pass of a network allocates and frees the same large blocks. The system would get them back, and zero their
// pages anew, 4 KiB at a time; so they are kept here, up to twice as much as was in use at once.

#include "buffers.h"

#include <algorithm>
#include <cstdlib>
#include <map>
#include <mutex>

#include <ATen/EmptyTensor.h>
#include <c10/core/Allocator.h>
#include <c10/util/Exception.h>

namespace {

struct Block {
  std::size_t size;
  void* memory;
};

class Buffers final : public c10::Allocator {
 public:
  c10::DataPtr allocate(std::size_t size) override {
    constexpr std::size_t PAGE = 4096;
    size = (std::max<std::size_t>(size, 1) + PAGE - 1) / PAGE * PAGE;
    auto* const block = get(size);
    return {block->memory, block, &give_back, c10::Device(c10::DeviceType::CPU)};
  }

  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }

  void copy_data(void* to, const void* from, std::size_t count) const override {
    default_copy_data(to, from, count);
  }

  static Buffers& all() {
    // Never destroyed: tensors may outlive static objects.
    static auto* const buffers = new Buffers;
    return *buffers;
  }

 private:
  std::mutex mutex;
  std::multimap<std::size_t, Block*> free;
  std::size_t used = 0, kept = 0, most_used = 0;

  Block* get(std::size_t size) {
    const std::lock_guard<std::mutex> lock(mutex);
    const auto fits = free.lower_bound(size);
    if (fits != free.end() && fits->first / 2 <= size) {
      auto* const block = fits->second;
      free.erase(fits);
      kept -= block->size;
      count(block->size);
      return block;
    }
    count(size);
    while (!free.empty() && used + kept > 2 * most_used) {
      const auto smallest = free.begin();
      kept -= smallest->first;
      std::free(smallest->second->memory);
      delete smallest->second;
      free.erase(smallest);
    }
    void* const memory = std::aligned_alloc(4096, size);
    if (memory == nullptr) {
      used -= size;
      TORCH_CHECK_WITH(OutOfMemoryError, false, "no memory for ", size, " bytes");
    }
    return new Block{size, memory};
  }

  void count(std::size_t size) {
    used += size;
    most_used = std::max(most_used, used);
  }

  static void give_back(void* context) {
    auto* const block = static_cast<Block*>(context);
    auto& buffers = all();
    const std::lock_guard<std::mutex> lock(buffers.mutex);
    buffers.used -= block->size;
    buffers.kept += block->size;
    buffers.free.emplace(block->size, block);
  }
};

}  // namespace

namespace rsflow {
namespace cpu {

at::Tensor buffer(at::IntArrayRef size) {
  return at::detail::empty_generic(size, &Buffers::all(), c10::DispatchKeySet(c10::DispatchKey::CPU),
                                   at::kFloat, at::MemoryFormat::ChannelsLast);
}

}  // namespace cpu
}  // namespace rsflow
