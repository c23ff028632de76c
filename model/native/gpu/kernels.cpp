#include "kernels.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>

#include <ATen/ops/zeros.h>
#include <c10/core/Stream.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include "../guard.h"

namespace rsflow {
namespace gpu {
namespace {

constexpr int COUNT = static_cast<int>(Kernel::COUNT);
constexpr int TYPES = 3;

constexpr std::array<const char*, COUNT> NAMES = {
#define RSFLOW_NAME_KERNEL(name, Arguments, type) "rsflow_" #name "_" #type,
#define RSFLOW_NAME_TYPE(type) RSFLOW_KERNELS(RSFLOW_NAME_KERNEL, type)
    RSFLOW_TYPES(RSFLOW_NAME_TYPE)};

// As `cuLaunchKernel`.
using Launch = int (*)(void* function, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                       unsigned shared_bytes, void* stream, void** arguments, void** extra);

// Set once, before anything is computed with them.
struct Table {
  Launch launch;
  c10::Device device;
  std::array<void*, COUNT> functions;
  at::Tensor counters;
};
std::atomic<const Table*> table{nullptr};

constexpr std::int64_t COUNTERS = 65536;

// Blocks that share a pass: a few for each multiprocessor of the largest GPUs. A constant, since sums
// depend on it.
constexpr std::int64_t BLOCKS = 1056;

const Table& the_table() {
  const auto* const kernels = table.load(std::memory_order_acquire);
  TORCH_CHECK(kernels != nullptr, "no kernels are loaded");
  return *kernels;
}

int type_of(const at::Tensor& values) {
  switch (values.scalar_type()) {
    case at::kFloat:
      return 0;
    case at::kBFloat16:
      return 1;
    case at::kHalf:
      return 2;
    default:
      return -1;
  }
}

}  // namespace

Kernel kernel_for(Kernel of_f32, const at::Tensor& values) {
  const int type = type_of(values);
  TORCH_CHECK(type >= 0, "there is no kernel for ", values.scalar_type());
  return static_cast<Kernel>(static_cast<int>(of_f32) + type * (COUNT / TYPES));
}

int lanes(const at::Tensor& values) { return static_cast<int>(16 / values.element_size()); }

bool has_kernels_for(const at::Tensor& values) {
  const auto* const kernels = table.load(std::memory_order_acquire);
  return kernels != nullptr && values.dim() == 4 && values.numel() > 0 && type_of(values) >= 0 &&
         values.device() == kernels->device && values.size(1) % lanes(values) == 0 &&
         values.is_contiguous(at::MemoryFormat::ChannelsLast);
}

void launch(Kernel kernel, const at::Tensor& on, unsigned blocks_x, unsigned blocks_y,
            const void* arguments) {
  const auto& kernels = the_table();
  void* stream = nullptr;
  if (!on.is_cpu()) {
    stream = c10::impl::VirtualGuardImpl(on.device().type()).getStream(on.device()).native_handle();
  }
  // cuLaunchKernel does not change them.
  void* list[] = {const_cast<void*>(arguments)};
  const auto index = static_cast<std::size_t>(kernel);
  const int code = kernels.launch(kernels.functions[index], blocks_x, blocks_y, 1, THREADS, 1, 1, 0,
                                  stream, list, nullptr);
  TORCH_CHECK(code == 0, "the kernel ", NAMES[index], " cannot be started: error ", code,
              " of the NVIDIA driver");
}

std::int64_t divided_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

Grid::Grid(std::int64_t rows, std::int64_t vectors, std::int64_t most_width, std::int64_t threads) {
  columns = static_cast<unsigned>(divided_up(vectors, most_width));
  const std::int64_t width = divided_up(vectors, columns);
  const std::int64_t height = THREADS / width / threads;
  const std::int64_t most = std::max<std::int64_t>(1, BLOCKS / columns);
  const std::int64_t steps = std::max<std::int64_t>(4, divided_up(divided_up(rows, height), most));
  const std::int64_t chunk = steps * height;
  // Vectors have up to 8 values.
  TORCH_CHECK(chunk <= INT32_MAX && vectors <= INT32_MAX / 8, rows, " rows of ", vectors,
              " vectors are too many for our kernels");
  tiles = {rows, static_cast<int>(vectors), static_cast<int>(width), static_cast<int>(chunk),
           static_cast<int>(divided_up(rows, chunk))};
}

void Grid::run(Kernel of_f32, const at::Tensor& x, const void* arguments) const {
  launch(kernel_for(of_f32, x), x, columns, static_cast<unsigned>(tiles.chunks), arguments);
}

unsigned* counters(const at::Tensor& on, std::int64_t count) {
  const auto& kernels = the_table();
  TORCH_CHECK(count <= COUNTERS && on.device() == kernels.device, "not enough counters");
  return reinterpret_cast<unsigned*>(kernels.counters.mutable_data_ptr<int>());
}

}  // namespace gpu
}  // namespace rsflow

// The name of the kernel of that number; null after the last one.
extern "C" const char* rsflow_kernel_name(std::size_t index) {
  using namespace rsflow::gpu;
  return index < NAMES.size() ? NAMES[index] : nullptr;
}

// From now on these kernels are used on a device (the CPU if `gpu` is negative). `functions` are in the
// order of their names, and `launch` starts one as `cuLaunchKernel` does. Both stay valid.
extern "C" const char* rsflow_use_kernels(rsflow::gpu::Launch launch, void* const* functions,
                                          int gpu) {
  using namespace rsflow::gpu;
  return catch_exceptions([&] {
    TORCH_CHECK(launch != nullptr && functions != nullptr, "null pointer");
    const auto device = gpu < 0 ? c10::Device(c10::kCPU)
                                : c10::Device(c10::kCUDA, static_cast<c10::DeviceIndex>(gpu));
    auto* const kernels = new Table{launch, device, {}, at::zeros({COUNTERS}, at::device(device).dtype(at::kInt))};
    std::copy(functions, functions + COUNT, kernels->functions.begin());
    // Never freed: an earlier one may be in use.
    table.store(kernels, std::memory_order_release);
  });
}

// libtorch's operators are used again.
extern "C" void rsflow_drop_kernels() {
  rsflow::gpu::table.store(nullptr, std::memory_order_release);
}
