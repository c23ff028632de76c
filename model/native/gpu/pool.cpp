// Max pooling in channels last, called by `src/nn/kernels/operators.rs`. It keeps a byte for each output. The kernels
// are in `kernels.cu`.

#include <cstdint>

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/custom_function.h>

#include "../guard.h"
#include "kernels.h"

namespace {

using namespace rsflow::gpu;

unsigned blocks(const at::Tensor& values) {
  const std::int64_t vectors = values.numel() / lanes(values);
  return static_cast<unsigned>((vectors + THREADS - 1) / THREADS);
}

struct Pooled {
  at::Tensor y, places;
};

Pooled forward(const Pool& pool, const at::Tensor& x) {
  Pooled result;
  result.y = at::empty({x.size(0), x.size(1), pool.out_height, pool.out_width},
                       x.options().memory_format(LAST));
  result.places = at::empty_like(result.y, at::kByte);
  const PoolForward arguments{pool, x.const_data_ptr(), result.y.mutable_data_ptr(),
                              result.places.mutable_data_ptr<std::uint8_t>()};
  launch(kernel_for(Kernel::pool_forward_f32, x), x, blocks(result.y), 1, &arguments);
  return result;
}

struct MaxPool : torch::autograd::Function<MaxPool> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x,
                            const Pool* pool) {
    const auto result = ::forward(*pool, x);
    context->save_for_backward({result.places});
    context->saved_data["pool"] = std::vector<std::int64_t>{
        pool->batch,      pool->height,    pool->width,  pool->vectors, pool->out_height,
        pool->out_width, pool->kernel, pool->stride,  pool->top,     pool->left};
    return result.y;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    if (!gradients[0].defined()) {
      return torch::autograd::variable_list(2);
    }
    const auto places = context->get_saved_variables()[0];
    const auto saved = context->saved_data["pool"].toIntVector();
    const auto at = [&](int i) { return static_cast<int>(saved[i]); };
    const Pool pool{at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7), at(8), at(9)};
    const auto dy = gradients[0].contiguous(LAST);
    const auto dx = at::empty({pool.batch, places.size(1), pool.height, pool.width},
                              dy.options().memory_format(LAST));
    const PoolBackward arguments{pool, dy.const_data_ptr(), places.const_data_ptr<std::uint8_t>(),
                                 dx.mutable_data_ptr()};
    launch(kernel_for(Kernel::pool_backward_f32, dy), dy, blocks(dx), 1, &arguments);
    return {dx, at::Tensor()};
  }
};

}  // namespace

// Max pooling of `input`, [batch, channels, height, width], over square windows, to `out_height` by
// `out_width`; padding (at the top and left, and as far as the windows reach) counts for nothing.
// `output` stays null where there are no kernels for such an input.
extern "C" const char* rsflow_max_pool(const at::Tensor* input, int kernel, int stride, int top,
                                       int left, int out_height, int out_width,
                                       at::Tensor** output) {
  return catch_exceptions([&] {
    const auto& x = deref(input);
    deref(output) = nullptr;
    if (!has_kernels_for(x) || kernel > 15) {
      return;
    }
    // Every window has a pixel of the map.
    const auto fits = [&](int padding, int out, std::int64_t side) {
      return padding >= 0 && padding < kernel && out > 0 && (out - 1) * stride - padding < side;
    };
    TORCH_CHECK(kernel > 0 && stride > 0 && fits(top, out_height, x.size(2)) &&
                    fits(left, out_width, x.size(3)) && x.numel() / lanes(x) < INT32_MAX,
                "no max pooling of an input of the shape ", x.sizes());
    const auto size = [&](int d) { return static_cast<int>(x.size(d)); };
    const Pool pool{size(0),    size(2),   size(3), size(1) / lanes(x), out_height,
                    out_width, kernel, stride,  top,                left};
    if (at::GradMode::is_enabled() && x.requires_grad()) {
      *output = new at::Tensor(MaxPool::apply(x, &pool));
    } else {
      *output = new at::Tensor(forward(pool, x).y);
    }
  });
}
