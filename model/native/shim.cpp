// What tch does not bind, for `src/native.rs` to call; see `told.h` for how.

#include <cstddef>
#include <vector>

#include <malloc.h>

#include <ATen/core/Tensor.h>
#include <ATen/ops/_fused_sgd.h>
#include <ATen/ops/empty_like.h>

#include "told.h"

namespace {

std::vector<at::Tensor> list(const at::Tensor* const* tensors, std::size_t count) {
  std::vector<at::Tensor> list;
  list.reserve(count);
  for (std::size_t i = 0; i < count; ++i) {
    list.push_back(*tensors[i]);
  }
  return list;
}

// Whether the same element of both is at the same place in memory. How far it would be to the
// next one says nothing where there is none.
bool lie_alike(const at::Tensor& a, const at::Tensor& b) {
  for (int64_t d = 0; d < a.dim(); ++d) {
    if (a.size(d) > 1 && a.stride(d) != b.stride(d)) {
      return false;
    }
  }
  return true;
}

void check_pair(const at::Tensor& parameter, const at::Tensor& other, const char* what) {
  TORCH_CHECK(other.sizes() == parameter.sizes(), what, " has the shape ", other.sizes(),
              ", its parameter ", parameter.sizes());
  TORCH_CHECK(other.scalar_type() == parameter.scalar_type(), what, " is of the kind ",
              other.scalar_type(), ", its parameter ", parameter.scalar_type());
  TORCH_CHECK(other.device() == parameter.device(), what, " is on ", other.device(),
              ", its parameter on ", parameter.device());
}

}  // namespace

// Has the C library keep memory that is freed, for the next step to use.
extern "C" void rsflow_keep_freed_memory() {
#ifdef __GLIBC__
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, -1);  // never
  mallopt(M_TOP_PAD, 64 << 20);
#endif
}

// One step of SGD on `count` parameters. `momenta` are as many, or ignored if `momentum` is 0.
// The kernel walks through memory from front to back and trusts that all three lists fit, so that
// is seen to here: gradients that lie in another order are copied.
extern "C" const char* rsflow_fused_sgd(const at::Tensor* const* parameters,
                                        const at::Tensor* const* gradients,
                                        const at::Tensor* const* momenta, std::size_t count,
                                        double lr, double momentum, double weight_decay,
                                        bool nesterov) {
  return told([&] {
    const auto p = list(parameters, count);
    auto g = list(gradients, count);
    const auto m = list(momenta, momentum == 0.0 ? 0 : count);
    for (std::size_t i = 0; i < count; ++i) {
      TORCH_CHECK(p[i].is_non_overlapping_and_dense(), "a parameter has gaps in memory");
      check_pair(p[i], g[i], "a gradient");
      if (!lie_alike(p[i], g[i])) {
        g[i] = at::empty_like(p[i]).copy_(g[i]);
      }
    }
    for (std::size_t i = 0; i < m.size(); ++i) {
      check_pair(p[i], m[i], "a momentum");
      TORCH_CHECK(lie_alike(p[i], m[i]), "a momentum does not lie in memory as its parameter does");
    }
    at::_fused_sgd_(p, g, m, weight_decay, momentum, lr, /*dampening=*/0.0, nesterov,
                    /*maximize=*/false, /*is_first_step=*/false);
  });
}
