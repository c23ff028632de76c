// Batch norm, the residual's addition and the activation in one operator, on the CPU; `../norm.h` says what
// it computes. The kernels are in `norm_kernels.h`.
//
// The statistics are sums of the differences to a centre c, the mean of the first k values. Since
// v >= k / n (m - c)^2, the sum of squares is at most n / k + 1 times n v, whatever the data: subtracting
// n (m - c)^2 cancels few digits. In float are sums of a few hundred values, the rest is in double. No sum
// depends on the number of threads.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <type_traits>
#include <utility>
#include <vector>

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/util/BFloat16.h>

#include "../norm.h"

#if !defined(RSFLOW_ONE_SET) && defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define SEVERAL_SETS
#include <immintrin.h>
#endif
#define INLINE inline __attribute__((always_inline))

namespace {

using rsflow::Activation;

enum Pass {
  STATISTICS,
  FORWARD_PLAIN,
  FORWARD_ADD,
  FORWARD_ACTIVATE,
  FORWARD_ADD_ACTIVATE,
  SUMS_OF_DY,
  SUMS_ACTIVATED,
  SUMS_MASKED,  // writes dz too
  BACKWARD_PLAIN,
  BACKWARD_ACTIVATED,
  PASSES
};

// What a pass works on. A run is what lies together: the pixels of a channel of an image, or in channels
// last the channels of a pixel.
struct Job {
  std::int64_t length;  // of a run
  std::int64_t mask_length;
  const void* x;
  const void* residual;
  const void* dy;
  void* y;
  void* dz;
  void* dx;
  std::uint8_t* mask;  // null: not wanted
  // The activation's bounds.
  float low, high;
  bool streams;  // past the caches
  // Of each channel: z = (x - mean) scale + shift, dx = dz scale + (x - mean) slope + offset
  const float *mean, *scale, *shift, *slope, *offset;
};

// Works on the `count` runs from `run` on. They are those of all channels, or of the channels from
// `channel` on. Adds to `sums`.
using Kernel = void (*)(Job, std::int64_t run, std::int64_t count, std::int64_t channel, float* sums);

namespace any {
#include "norm_kernels.h"
}
#ifdef SEVERAL_SETS
#define RSFLOW_AVX2  // GCC 12 does not define __AVX2__ for the pragma
#pragma GCC push_options
#pragma GCC target("avx2,fma")
namespace avx2 {
#include "norm_kernels.h"
}
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")
namespace avx512 {
#include "norm_kernels.h"
}
#pragma GCC pop_options
#endif

Kernel kernel_for(Pass pass, bool channels_last, at::ScalarType dtype) {
  const bool is_bfloat16 = dtype == at::kBFloat16;
#ifdef SEVERAL_SETS
  static const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  static const bool has_avx512 =
      has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (has_avx512) {
    return avx512::kernel(pass, channels_last, is_bfloat16);
  }
  if (has_avx2) {
    return avx2::kernel(pass, channels_last, is_bfloat16);
  }
#endif
  return any::kernel(pass, channels_last, is_bfloat16);
}

// Results of so many bytes are written past the caches, which pays if they would not stay there: it saves
// reading the memory before it is written. Smaller ones are faster to read again from a cache.
constexpr std::size_t STREAMED = 16 << 20;

struct Shape {
  std::int64_t batch, channels, pixels;
  bool channels_last;
  at::ScalarType dtype;

  explicit Shape(const at::Tensor& x)
      : batch(x.size(0)), channels(x.size(1)), pixels(x.size(2) * x.size(3)), dtype(x.scalar_type()) {
    // One pixel an image is both; consecutive channels make longer runs.
    channels_last =
        pixels == 1 || (x.is_contiguous(at::MemoryFormat::ChannelsLast) && !x.is_contiguous());
  }

  std::int64_t rows() const { return batch * pixels; }
  std::int64_t runs() const { return channels_last ? rows() : batch * channels; }
  at::MemoryFormat format() const {
    return channels_last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
  }

  Job job(const at::Tensor& x, Activation activation) const {
    constexpr float infinity = std::numeric_limits<float>::infinity();
    Job job{};
    job.length = channels_last ? channels : pixels;
    job.mask_length = job.length / 8 + job.length % 8;
    job.x = x.const_data_ptr();
    job.streams = x.nbytes() >= STREAMED && job.length % any::LANES == 0;
    job.low = activation == Activation::NONE ? -infinity : 0;
    job.high = activation == Activation::RELU6 ? 6 : infinity;
    return job;
  }
};

// Before other threads read what was streamed.
void finish_streams() {
#ifdef SEVERAL_SETS
  _mm_sfence();
#endif
}

// Runs two passes: `sum` for the sums, unless it is absent, then, when `finish(channel, first, second)`
// has been called for a channel, `apply`. `centre(job, channel)` comes before the sums.
template <typename Centre, typename Finish>
void two_passes(const Shape& shape, const Job& job, std::optional<Pass> sum, Pass apply, Centre centre,
                Finish finish) {
  const auto sums_kernel = sum ? kernel_for(*sum, shape.channels_last, shape.dtype) : nullptr;
  const auto kernel = kernel_for(apply, shape.channels_last, shape.dtype);
  Job second = job;
  if (job.dz != nullptr) {
    second.dy = job.dz;
  }
  if (!shape.channels_last) {
    // Both passes follow each other channel by channel, for the cache's sake; small planes together.
    constexpr std::int64_t LANES = any::LANES;
    const auto most = std::max<std::int64_t>(1, shape.channels / (2 * at::get_num_threads()));
    const auto group = std::clamp<std::int64_t>(1024 / shape.pixels, 1, most);
    const auto images_at_once = std::max<std::int64_t>(1, 8192 / shape.pixels);
    const auto groups = (shape.channels + group - 1) / group;
    at::parallel_for(0, groups, 1, [&](std::int64_t begin, std::int64_t end) {
      std::vector<float> sums(2 * LANES * group);
      std::vector<double> totals(2 * group);
      for (auto g = begin; g < end; ++g) {
        const auto channel = g * group;
        const auto count = std::min(group, shape.channels - channel);
        std::fill(totals.begin(), totals.end(), 0);
        if (sum) {
          centre(channel, count);
          for (std::int64_t n = 0; n < shape.batch; ++n) {
            sums_kernel(job, n * shape.channels + channel, count, channel, sums.data());
            if ((n + 1) % images_at_once == 0 || n + 1 == shape.batch) {
              for (std::int64_t i = 0; i < 2 * LANES * count; ++i) {
                totals[i / LANES] += sums[i];
                sums[i] = 0;
              }
            }
          }
        }
        for (std::int64_t k = 0; k < count; ++k) {
          finish(channel + k, totals[2 * k], totals[2 * k + 1]);
        }
        // Backwards: what was read last is still in the cache.
        for (auto n = shape.batch - 1; n >= 0; --n) {
          kernel(second, n * shape.channels + channel, count, channel, nullptr);
        }
      }
      finish_streams();
    });
    return;
  }
  const auto rows = shape.rows(), width = shape.channels;
  const auto block = std::max<std::int64_t>(32, 16384 / width);
  const auto blocks = (rows + block - 1) / block;
  std::vector<double> totals(2 * width);
  if (sum) {
    centre(0, width);
    std::vector<float> sums(blocks * 2 * width);
    at::parallel_for(0, blocks, 1, [&](std::int64_t begin, std::int64_t end) {
      for (auto b = begin; b < end; ++b) {
        sums_kernel(job, b * block, std::min(block, rows - b * block), 0, &sums[2 * b * width]);
      }
    });
    for (std::int64_t b = 0; b < blocks; ++b) {
      for (std::int64_t i = 0; i < 2 * width; ++i) {
        totals[i] += sums[2 * b * width + i];
      }
    }
  }
  for (std::int64_t c = 0; c < width; ++c) {
    finish(c, totals[c], totals[width + c]);
  }
  at::parallel_for(0, blocks, 1, [&](std::int64_t begin, std::int64_t end) {
    for (auto b = end - 1; b >= begin; --b) {
      kernel(second, b * block, std::min(block, rows - b * block), 0, nullptr);
    }
    finish_streams();
  });
}

}  // namespace

namespace rsflow {
namespace cpu {

bool norms(const at::Tensor& x) {
  const bool has_kernels = x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16;
  return x.is_cpu() && has_kernels && x.dim() == 4 && x.numel() > 0;
}

// The statistics are the mean, 1 / sqrt(variance + epsilon), and what rounding took from the mean:
// [3, channels].
Normed forward(const Norm& norm, const at::Tensor& input, const at::Tensor& residual, bool keeps) {
  const Shape shape(input);
  const auto channels = shape.channels;
  Normed result;
  result.x = input.contiguous(shape.format());
  result.y = at::empty_like(result.x, {}, shape.format());
  result.statistics = at::empty({3, channels}, norm.weight.options());
  auto job = shape.job(result.x, norm.activation);
  const bool activates = norm.activation != Activation::NONE;
  at::Tensor added;
  if (residual.defined()) {
    added = residual.contiguous(shape.format());
    job.residual = added.const_data_ptr();
    if (activates && keeps) {
      result.mask = at::empty({shape.runs() * job.mask_length}, norm.weight.options().dtype(at::kByte));
      job.mask = result.mask.mutable_data_ptr<std::uint8_t>();
    }
  }
  job.y = result.y.mutable_data_ptr();
  float* const mean = result.statistics.mutable_data_ptr<float>();
  float* const inverse = mean + channels;
  float* const rest = inverse + channels;
  std::vector<float> factors(2 * channels);
  job.mean = mean;
  job.scale = factors.data();
  job.shift = &factors[channels];
  float* const running_mean = norm.running_mean.mutable_data_ptr<float>();
  float* const running_var = norm.running_var.mutable_data_ptr<float>();
  const float *gamma = norm.weight.const_data_ptr<float>(), *beta = norm.bias.const_data_ptr<float>();
  const auto statistics = kernel_for(STATISTICS, shape.channels_last, shape.dtype);
  const double n = static_cast<double>(shape.rows());
  const auto apply = residual.defined() ? (activates ? FORWARD_ADD_ACTIVATE : FORWARD_ADD)
                                        : (activates ? FORWARD_ACTIVATE : FORWARD_PLAIN);
  // The means of the first image's planes, or of the first rows, into `mean`.
  const auto centre = [&](std::int64_t channel, std::int64_t count) {
    const auto each = shape.channels_last ? 1 : any::LANES;
    std::vector<float> sums(2 * count * each);
    std::fill_n(mean + channel, count, 0);
    const auto rows = shape.channels_last ? std::min<std::int64_t>(16, shape.rows()) : shape.pixels;
    statistics(job, shape.channels_last ? 0 : channel, shape.channels_last ? rows : count, channel, sums.data());
    for (std::int64_t k = 0; k < count; ++k) {
      const float* const first = &sums[shape.channels_last ? k : 2 * k * each];
      float sum = 0;
      for (std::int64_t lane = 0; lane < each; ++lane) {
        sum += first[lane];
      }
      mean[channel + k] = sum / static_cast<float>(rows);
    }
  };
  const auto finish = [&](std::int64_t c, double first, double second) {
    double exact = running_mean[c], variance = running_var[c];
    if (norm.training) {
      const double difference = first / n;
      // NaN stays NaN.
      const double squares = second - first * difference < 0 ? 0 : second - first * difference;
      exact = mean[c] + difference;
      variance = squares / n;
      running_mean[c] =
          static_cast<float>(norm.momentum * exact + (1 - norm.momentum) * running_mean[c]);
      running_var[c] =
          static_cast<float>(norm.momentum * squares / (n - 1) + (1 - norm.momentum) * running_var[c]);
    }
    mean[c] = static_cast<float>(exact);
    inverse[c] = static_cast<float>(1 / std::sqrt(variance + norm.epsilon));
    rest[c] = static_cast<float>(exact - mean[c]);
    factors[c] = gamma[c] * inverse[c];
    factors[channels + c] = beta[c] - rest[c] * factors[c];
  };
  two_passes(shape, job, norm.training ? std::optional<Pass>(STATISTICS) : std::nullopt, apply, centre, finish);
  return result;
}

NormGradients backward(const Norm& norm, const Normed& kept, const at::Tensor& gradient) {
  const auto &x = kept.x, &statistics = kept.statistics, &mask = kept.mask;
  const auto &weight = norm.weight, &bias = norm.bias;
  const auto activation = norm.activation;
  const Shape shape(x);
  const auto channels = shape.channels;
  const auto dy = gradient.to(shape.dtype).contiguous(shape.format());
  const auto dx = at::empty_like(x, {}, shape.format());
  const auto dweight = at::empty_like(weight), dbias = at::empty_like(weight);
  // Without a mask there is no residual, or no activation: then it is dy.
  const auto dz = mask.defined() ? at::empty_like(x, {}, shape.format()) : dy;
  const bool recomputes = !mask.defined() && activation != Activation::NONE;
  auto job = shape.job(x, activation);
  job.dy = dy.const_data_ptr();
  job.dx = dx.mutable_data_ptr();
  if (mask.defined()) {
    job.mask = mask.mutable_data_ptr<std::uint8_t>();
    job.dz = dz.mutable_data_ptr();
  }
  const float* const mean = statistics.const_data_ptr<float>();
  const float *inverse = mean + channels, *rest = inverse + channels;
  const float *gamma = weight.const_data_ptr<float>(), *beta = bias.const_data_ptr<float>();
  std::vector<float> factors(4 * channels);
  float *scale = factors.data(), *shift = scale + channels;
  float *slope = shift + channels, *offset = slope + channels;
  job.mean = mean;
  job.scale = scale;
  job.shift = shift;
  job.slope = slope;
  job.offset = offset;
  for (std::int64_t c = 0; c < channels; ++c) {
    scale[c] = gamma[c] * inverse[c];
    shift[c] = beta[c] - rest[c] * scale[c];
  }
  // Running statistics do not depend on x.
  const double each = norm.training ? 1 / static_cast<double>(shape.rows()) : 0;
  float *to_weight = dweight.mutable_data_ptr<float>(), *to_bias = dbias.mutable_data_ptr<float>();
  const auto finish = [&](std::int64_t c, double first, double second) {
    const double sum = (second - rest[c] * first) * inverse[c];
    to_bias[c] = static_cast<float>(first);
    to_weight[c] = static_cast<float>(sum);
    const double of_x = -scale[c] * inverse[c] * sum * each;
    slope[c] = static_cast<float>(of_x);
    offset[c] = static_cast<float>(-scale[c] * first * each - of_x * rest[c]);
  };
  const auto sum = mask.defined() ? SUMS_MASKED : recomputes ? SUMS_ACTIVATED : SUMS_OF_DY;
  two_passes(shape, job, sum, recomputes ? BACKWARD_ACTIVATED : BACKWARD_PLAIN,
             [](std::int64_t, std::int64_t) {}, finish);
  return {dx, dweight, dbias, dz};
}

}  // namespace cpu
}  // namespace rsflow
