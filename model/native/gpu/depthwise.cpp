// Depthwise convolutions of 3 by 3 in channels last, called by `src/nn/kernels/operators.rs`. The kernels
// are in `depthwise.cu`.
//
// They take the weight as [3, 3, channels], so that it is read in vectors too. Backward keeps that, and x.

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/custom_function.h>

#include "../guard.h"
#include "kernels.h"

namespace {

using namespace rsflow::gpu;

constexpr std::int64_t TAPS = SIDE * SIDE;
// Vectors of a pixel that a block has at most.
constexpr std::int64_t WIDTH = 32;
// The same for the gradient of the weight, which takes SIDE threads for each.
constexpr std::int64_t WEIGHT_WIDTH = 16;

struct Geometry {
  int out_height, out_width;
  int stride;
  int top, left;
};

// The blocks and arguments for the strips of a map of `rows` by `columns`.
struct Plan {
  std::int64_t strips;
  Grid grid;
  Depthwise conv;

  Plan(const at::Tensor& x, const Geometry& of, std::int64_t rows, std::int64_t columns,
       std::int64_t width = WIDTH, std::int64_t threads = 1)
      : strips(divided_up(columns, STRIP)),
        grid(x.size(0) * rows * strips, x.size(1) / lanes(x), width, threads),
        conv{grid.tiles,
             static_cast<int>(strips),
             static_cast<int>(x.size(2)),
             static_cast<int>(x.size(3)),
             of.out_height,
             of.out_width,
             of.stride,
             of.top,
             of.left} {}
};

at::Tensor forward(const Geometry& of, const at::Tensor& x, const at::Tensor& taps) {
  const auto y = at::empty({x.size(0), x.size(1), of.out_height, of.out_width},
                           x.options().memory_format(LAST));
  const Plan plan(x, of, of.out_height, of.out_width);
  const DepthwiseForward arguments{plan.conv, x.const_data_ptr(), taps.const_data_ptr(),
                                   y.mutable_data_ptr()};
  plan.grid.run(Kernel::depthwise_forward_f32, x, &arguments);
  return y;
}

at::Tensor input_gradient(const Geometry& of, const at::Tensor& x, const at::Tensor& taps,
                          const at::Tensor& dy) {
  const auto dx = at::empty_like(x);
  // Strips start at a multiple of the stride, counted with the padding.
  const Plan plan(x, of, x.size(2), x.size(3) + of.left % of.stride);
  const DepthwiseBackward arguments{plan.conv, dy.const_data_ptr(), taps.const_data_ptr(),
                                    dx.mutable_data_ptr()};
  plan.grid.run(Kernel::depthwise_backward_f32, x, &arguments);
  return dx;
}

at::Tensor weight_gradient(const Geometry& of, const at::Tensor& x, const at::Tensor& dy) {
  const auto contiguous = x.options().memory_format(at::MemoryFormat::Contiguous);
  const auto channels = x.size(1);
  const Plan plan(x, of, of.out_height, of.out_width, WEIGHT_WIDTH, SIDE);
  const auto partial =
      at::empty({plan.grid.tiles.chunks, TAPS, channels}, contiguous.dtype(at::kFloat));
  const DepthwiseWeight arguments{plan.conv, x.const_data_ptr(), dy.const_data_ptr(),
                                  partial.mutable_data_ptr<float>()};
  plan.grid.run(Kernel::depthwise_weight_f32, x, &arguments);
  const auto dweight = at::empty({channels, 1, SIDE, SIDE}, contiguous);
  const DepthwiseWeightSum of_sum{partial.const_data_ptr<float>(), plan.grid.tiles.chunks,
                                  static_cast<int>(channels), dweight.mutable_data_ptr()};
  const auto blocks = divided_up(TAPS * channels, 4 * SUM_WIDTH);
  launch(kernel_for(Kernel::depthwise_weight_sum_f32, x), x, static_cast<unsigned>(blocks), 1,
         &of_sum);
  return dweight;
}

struct DepthwiseConv : torch::autograd::Function<DepthwiseConv> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x,
                            const at::Tensor& weight, const Geometry* of) {
    const auto taps = in_vectors(weight);
    context->save_for_backward({x, taps});
    context->saved_data["geometry"] = std::vector<std::int64_t>{
        of->out_height, of->out_width, of->stride, of->top, of->left};
    return ::forward(*of, x, taps);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    if (!gradients[0].defined()) {
      return torch::autograd::variable_list(3);
    }
    const auto tensors = context->get_saved_variables();
    const auto &x = tensors[0], &taps = tensors[1];
    const auto saved = context->saved_data["geometry"].toIntVector();
    const auto at = [&](int i) { return static_cast<int>(saved[i]); };
    const Geometry of{at(0), at(1), at(2), at(3), at(4)};
    const auto dy = gradients[0].to(x.scalar_type()).contiguous(LAST);
    at::Tensor dx, dweight;
    if (context->needs_input_grad(0)) {
      dx = input_gradient(of, x, taps, dy);
    }
    if (context->needs_input_grad(1)) {
      dweight = weight_gradient(of, x, dy);
    }
    return {dx, dweight, at::Tensor()};
  }

  // [3, 3, channels].
  static at::Tensor in_vectors(const at::Tensor& weight) {
    return weight.reshape({weight.size(0), TAPS}).t().contiguous();
  }
};

}  // namespace

// Convolution of each channel of `input`, [batch, channels, height, width], with its own kernel of
// `weight`, [channels, 1, 3, 3], to `out_height` by `out_width`; padding (at the top and left, and as far
// as the kernels reach) is 0. `output` stays null where there are no kernels for it.
extern "C" const char* rsflow_depthwise(const at::Tensor* input, const at::Tensor* weight, int stride,
                                        int top, int left, int out_height, int out_width,
                                        at::Tensor** output) {
  return catch_exceptions([&] {
    const auto& x = deref(input);
    const auto& w = deref(weight);
    deref(output) = nullptr;
    if (!has_kernels_for(x) || w.scalar_type() != x.scalar_type() || w.dim() != 4 ||
        w.size(2) != SIDE || w.size(3) != SIDE || stride < 1 || stride > 2 || top >= SIDE ||
        left >= SIDE) {
      return;
    }
    const auto fits = [&](int padding, int out, std::int64_t side) {
      return padding >= 0 && out > 0 && (out - 1) * std::int64_t{stride} - padding < side;
    };
    TORCH_CHECK(w.size(0) == x.size(1) && w.size(1) == 1 && w.device() == x.device() &&
                    fits(top, out_height, x.size(2)) && fits(left, out_width, x.size(3)),
                "no depthwise convolution of an input of the shape ", x.sizes(),
                " with a weight of the shape ", w.sizes());
    // The kernels count in 32 bits.
    const std::int64_t vectors = x.size(0) * (x.size(1) / lanes(x));
    if (vectors * x.size(2) * x.size(3) >= INT32_MAX ||
        vectors * out_height * out_width >= INT32_MAX || x.size(1) >= INT32_MAX / TAPS) {
      return;
    }
    const Geometry of{out_height, out_width, stride, top, left};
    if (at::GradMode::is_enabled() && (x.requires_grad() || w.requires_grad())) {
      *output = new at::Tensor(DepthwiseConv::apply(x, w, &of));
    } else {
      *output = new at::Tensor(forward(of, x, DepthwiseConv::in_vectors(w)));
    }
  });
}
