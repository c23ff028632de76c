#include "convolution_sets.h"

#include <c10/util/Exception.h>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define HAS_SETS
#include <immintrin.h>
#endif
#define INLINE inline __attribute__((always_inline))

namespace rsflow {
namespace cpu {
namespace convolution {
namespace {

#ifdef HAS_SETS
#pragma GCC push_options
#pragma GCC target("avx2,fma")
namespace avx2 {
constexpr int LANES = 8, WIDEST = 2;
using Vector = __m256;
INLINE __m256i mask(int count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
INLINE void prefetch(const char* from) { _mm_prefetch(from, _MM_HINT_T1); }
INLINE Vector zero() { return _mm256_setzero_ps(); }
INLINE Vector load(const float* from) { return _mm256_loadu_ps(from); }
INLINE Vector load_some(const float* from, int count) { return _mm256_maskload_ps(from, mask(count)); }
INLINE void store(float* to, Vector x) { _mm256_storeu_ps(to, x); }
INLINE void store_some(float* to, Vector x, int count) { _mm256_maskstore_ps(to, mask(count), x); }
INLINE Vector broadcast(float x) { return _mm256_set1_ps(x); }
INLINE Vector add(Vector a, Vector b) { return _mm256_add_ps(a, b); }
INLINE Vector subtract(Vector a, Vector b) { return _mm256_sub_ps(a, b); }
INLINE Vector multiply_add(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
// NaN stays NaN: it is the second operand.
INLINE Vector larger(Vector x, Vector y) {
  return _mm256_blendv_ps(_mm256_max_ps(x, y), x, _mm256_cmp_ps(x, x, _CMP_UNORD_Q));
}
INLINE Vector clamp(Vector x, float low, float high) {
  return _mm256_min_ps(broadcast(high), _mm256_max_ps(broadcast(low), x));
}
#include "convolution_kernels.h"
#include "winograd_kernels.h"
#include "max_pool_kernels.h"
constexpr Set SET = {LANES, WIDEST, compute_tile, compute_row, transform_patch, transform_square, find_largest};
}  // namespace avx2
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")
namespace avx512 {
constexpr int LANES = 16, WIDEST = 4;
using Vector = __m512;
INLINE __mmask16 mask(int count) { return static_cast<__mmask16>((1u << count) - 1); }
INLINE void prefetch(const char* from) { _mm_prefetch(from, _MM_HINT_T1); }
INLINE Vector zero() { return _mm512_setzero_ps(); }
INLINE Vector load(const float* from) { return _mm512_loadu_ps(from); }
INLINE Vector load_some(const float* from, int count) { return _mm512_maskz_loadu_ps(mask(count), from); }
INLINE void store(float* to, Vector x) { _mm512_storeu_ps(to, x); }
INLINE void store_some(float* to, Vector x, int count) { _mm512_mask_storeu_ps(to, mask(count), x); }
INLINE Vector broadcast(float x) { return _mm512_set1_ps(x); }
INLINE Vector add(Vector a, Vector b) { return _mm512_add_ps(a, b); }
INLINE Vector subtract(Vector a, Vector b) { return _mm512_sub_ps(a, b); }
INLINE Vector multiply_add(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
INLINE Vector larger(Vector x, Vector y) {
  return _mm512_mask_mov_ps(_mm512_max_ps(x, y), _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), x);
}
INLINE Vector clamp(Vector x, float low, float high) {
  return _mm512_min_ps(broadcast(high), _mm512_max_ps(broadcast(low), x));
}
#include "convolution_kernels.h"
#include "winograd_kernels.h"
#include "max_pool_kernels.h"
constexpr Set SET = {LANES, WIDEST, compute_tile, compute_row, transform_patch, transform_square, find_largest};
}  // namespace avx512
#pragma GCC pop_options
#endif

struct Sets {
  const Set* of[2] = {};
  std::int64_t count = 0;
};

// Those that this processor has, the best first.
const Sets& sets() {
  static const Sets found = [] {
    Sets sets;
#ifdef HAS_SETS
    const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
      sets.of[sets.count++] = &avx512::SET;
    }
    if (has_avx2) {
      sets.of[sets.count++] = &avx2::SET;
    }
#endif
    return sets;
  }();
  return found;
}

}  // namespace

std::int64_t set_count() { return sets().count; }

const Set& set(std::int64_t index) {
  TORCH_CHECK(index >= 0 && index < sets().count, "there are no convolutions for this processor");
  return *sets().of[index];
}

}  // namespace convolution
}  // namespace cpu
}  // namespace rsflow
