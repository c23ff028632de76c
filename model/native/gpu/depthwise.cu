// Depthwise convolutions with a kernel of 3 by 3. What they compute is stated in `arguments.h`.
//
// A thread computes strips of STRIP columns, of the channels of a vector. The strips of a block follow each
// other, row by row, so that the rows of x that several rows of y are made of are in the cache.

namespace rsflow {
namespace gpu {

// STRIP columns of a row of a map, from `column` on.
struct Strip {
  int batch, row, column;

  __device__ __forceinline__ Strip(long long index, int strips, int height) {
    const unsigned position = static_cast<unsigned>(index);
    const unsigned rows = position / strips;
    column = static_cast<int>(position % strips) * STRIP;
    row = static_cast<int>(rows % height);
    batch = static_cast<int>(rows / height);
  }
};

// A map, [batch, height, width, vectors]; no map has 2^31 vectors.
struct Map {
  int height, width, vectors;

  __device__ __forceinline__ int at(int batch, int row, int column, int vector) const {
    return ((batch * height + row) * width + column) * vectors + vector;
  }

  // Loads a vector of each of the columns from `column` on; those outside are zeros.
  template <int COLUMNS>
  __device__ __forceinline__ void load(const void* map, int batch, int row, int column, int vector,
                                       uint4 (&to)[COLUMNS]) const {
    const int first = at(batch, row, column, vector);
#pragma unroll
    for (int c = 0; c < COLUMNS; ++c) {
      const bool inside = column + c >= 0 && column + c < width;
      to[c] = inside ? static_cast<const uint4*>(map)[first + c * vectors] : make_uint4(0, 0, 0, 0);
    }
  }

  // Stores the columns of the strip that are not outside.
  template <class T>
  __device__ __forceinline__ void store(void* map, int batch, int row, int column, int vector,
                                        const float (&from)[STRIP][T::LANES]) const {
    const int first = at(batch, row, column, vector);
#pragma unroll
    for (int c = 0; c < STRIP; ++c) {
      if (column + c >= 0 && column + c < width) {
        static_cast<uint4*>(map)[first + c * vectors] = T::pack(from[c]);
      }
    }
  }
};

// A row of the kernel, of the vector's channels.
template <class T>
struct KernelRow {
  float taps[SIDE][T::LANES];

  __device__ __forceinline__ KernelRow(const void* weight, int row, int vectors, int vector) {
#pragma unroll
    for (int j = 0; j < SIDE; ++j) {
      T::unpack(static_cast<const uint4*>(weight)[(row * SIDE + j) * vectors + vector], taps[j]);
    }
  }
};

template <int LANES>
__device__ __forceinline__ void add_products(const float (&a)[LANES], const float (&b)[LANES],
                                             float (&to)[LANES]) {
#pragma unroll
  for (int i = 0; i < LANES; ++i) {
    to[i] = fmaf(a[i], b[i], to[i]);
  }
}

template <class T, int STRIDE>
__device__ __forceinline__ void depthwise_forward_by(const DepthwiseForward& a) {
  constexpr int LANES = T::LANES;
  constexpr int COLUMNS = (STRIP - 1) * STRIDE + SIDE;  // of x
  const Place place(a.conv.tiles);
  const Map in{a.conv.height, a.conv.width, a.conv.tiles.vectors};
  const Map out{a.conv.out_height, a.conv.out_width, a.conv.tiles.vectors};
  if (!place.works) {
    return;
  }
  for (long long index = place.begin; index < place.end; index += place.height) {
    const Strip strip(index, a.conv.strips, out.height);
    float y[STRIP][LANES] = {};
    for (int i = 0; i < SIDE; ++i) {
      const int row = strip.row * STRIDE - a.conv.top + i;
      if (row < 0 || row >= in.height) {
        continue;
      }
      uint4 loaded[COLUMNS];
      in.load(a.x, strip.batch, row, strip.column * STRIDE - a.conv.left, place.vector, loaded);
      const KernelRow<T> kernel(a.weight, i, in.vectors, place.vector);
#pragma unroll
      for (int c = 0; c < COLUMNS; ++c) {
        float x[LANES];
        T::unpack(loaded[c], x);
#pragma unroll
        for (int j = 0; j < SIDE; ++j) {
          if (c >= j && (c - j) % STRIDE == 0 && (c - j) / STRIDE < STRIP) {
            add_products(x, kernel.taps[j], y[(c - j) / STRIDE]);
          }
        }
      }
    }
    out.store<T>(a.y, strip.batch, strip.row, strip.column, place.vector, y);
  }
}

template <class T>
__device__ __forceinline__ void depthwise_forward(const DepthwiseForward& a) {
  if (a.conv.stride == 1) {
    depthwise_forward_by<T, 1>(a);
  } else {
    depthwise_forward_by<T, 2>(a);
  }
}

template <class T, int STRIDE>
__device__ __forceinline__ void depthwise_backward_by(const DepthwiseBackward& a) {
  constexpr int LANES = T::LANES;
  // Column c of a strip of x is tap j of the column (c - j) / STRIDE of y, counted from that of the
  // strip's first column. So the first one that is needed is BEFORE columns earlier.
  constexpr int BEFORE = (SIDE - 1) / STRIDE;
  constexpr int COLUMNS = BEFORE + (STRIP - 1) / STRIDE + 1;  // of dy
  const Place place(a.conv.tiles);
  const Map in{a.conv.height, a.conv.width, a.conv.tiles.vectors};
  const Map out{a.conv.out_height, a.conv.out_width, a.conv.tiles.vectors};
  if (!place.works) {
    return;
  }
  for (long long index = place.begin; index < place.end; index += place.height) {
    Strip strip(index, a.conv.strips, in.height);
    // With its padding a strip starts at a multiple of the stride, so the first one may start outside.
    strip.column -= a.conv.left % STRIDE;
    const int first = (strip.column + a.conv.left) / STRIDE - BEFORE;
    float dx[STRIP][LANES] = {};
    for (int i = 0; i < SIDE; ++i) {
      const int from = strip.row + a.conv.top - i;
      const int row = from / STRIDE;
      if (from < 0 || from % STRIDE != 0 || row >= out.height) {
        continue;
      }
      uint4 loaded[COLUMNS];
      out.load(a.dy, strip.batch, row, first, place.vector, loaded);
      const KernelRow<T> kernel(a.weight, i, in.vectors, place.vector);
#pragma unroll
      for (int c = 0; c < COLUMNS; ++c) {
        float dy[LANES];
        T::unpack(loaded[c], dy);
#pragma unroll
        for (int j = 0; j < SIDE; ++j) {
          const int to = (c - BEFORE) * STRIDE + j;
          if (to >= 0 && to < STRIP) {
            add_products(dy, kernel.taps[j], dx[to]);
          }
        }
      }
    }
    in.store<T>(a.dx, strip.batch, strip.row, strip.column, place.vector, dx);
  }
}

template <class T>
__device__ __forceinline__ void depthwise_backward(const DepthwiseBackward& a) {
  if (a.conv.stride == 1) {
    depthwise_backward_by<T, 1>(a);
  } else {
    depthwise_backward_by<T, 2>(a);
  }
}

// What a thread has of the gradient of the weight: one row of the kernel. Its SIDE rows of threads, one
// after the other, have the same strips.
struct RowPlace {
  Place place;
  int kernel_row;
  int slot, slots;  // strips that the block has at once
  bool works;

  __device__ __forceinline__ explicit RowPlace(const Tiles& tiles) : place(tiles) {
    kernel_row = place.row % SIDE;
    slot = place.row / SIDE;
    slots = place.height / SIDE;
    works = place.works && slot < slots;
  }
};

template <class T, int STRIDE>
__device__ __forceinline__ void depthwise_weight_by(const DepthwiseWeight& a, const RowPlace& own,
                                                    float (&sums)[SIDE][T::LANES]) {
  constexpr int LANES = T::LANES;
  constexpr int COLUMNS = (STRIP - 1) * STRIDE + SIDE;  // of x
  const Place& place = own.place;
  const Map in{a.conv.height, a.conv.width, a.conv.tiles.vectors};
  const Map out{a.conv.out_height, a.conv.out_width, a.conv.tiles.vectors};
  for (long long index = place.begin - place.row + own.slot; index < place.end; index += own.slots) {
    const Strip strip(index, a.conv.strips, out.height);
    const int row = strip.row * STRIDE - a.conv.top + own.kernel_row;
    if (row < 0 || row >= in.height) {
      continue;
    }
    uint4 loaded_dy[STRIP], loaded[COLUMNS];
    out.load(a.dy, strip.batch, strip.row, strip.column, place.vector, loaded_dy);
    in.load(a.x, strip.batch, row, strip.column * STRIDE - a.conv.left, place.vector, loaded);
    float dy[STRIP][LANES];
#pragma unroll
    for (int c = 0; c < STRIP; ++c) {
      T::unpack(loaded_dy[c], dy[c]);
    }
#pragma unroll
    for (int c = 0; c < COLUMNS; ++c) {
      float x[LANES];
      T::unpack(loaded[c], x);
#pragma unroll
      for (int j = 0; j < SIDE; ++j) {
        if (c >= j && (c - j) % STRIDE == 0 && (c - j) / STRIDE < STRIP) {
          add_products(x, dy[(c - j) / STRIDE], sums[j]);
        }
      }
    }
  }
}

template <class T>
__device__ __forceinline__ void depthwise_weight(const DepthwiseWeight& a) {
  constexpr int LANES = T::LANES;
  const RowPlace own(a.conv.tiles);
  float sums[SIDE][LANES] = {};
  if (own.works) {
    if (a.conv.stride == 1) {
      depthwise_weight_by<T, 1>(a, own, sums);
    } else {
      depthwise_weight_by<T, 2>(a, own, sums);
    }
  }
  // 4 more: neighbouring threads read different banks below.
  __shared__ float handed[SIDE * LANES][THREADS + 4];
#pragma unroll
  for (int j = 0; j < SIDE; ++j) {
#pragma unroll
    for (int i = 0; i < LANES; ++i) {
      handed[j * LANES + i][threadIdx.x] = sums[j][i];
    }
  }
  __syncthreads();
  const int width = own.place.width;
  const int first = blockIdx.x * width;
  const int vectors = a.conv.tiles.vectors - first < width ? a.conv.tiles.vectors - first : width;
  const int channels = vectors * LANES;  // of the block
  for (int figure = threadIdx.x; figure < SIDE * SIDE * channels; figure += THREADS) {
    const int tap = figure / channels;
    const int channel = figure % channels;
    const float* const of = handed[tap % SIDE * LANES + channel % LANES];
    float sum = 0;
    for (int slot = 0; slot < own.slots; ++slot) {
      sum += of[(slot * SIDE + tap / SIDE) * width + channel / LANES];
    }
    const long long row = static_cast<long long>(blockIdx.y) * SIDE * SIDE + tap;
    a.partial[row * a.conv.tiles.vectors * LANES + first * LANES + channel] = sum;
  }
}

template <class T>
__device__ __forceinline__ void depthwise_weight_sum(const DepthwiseWeightSum& a) {
  constexpr int ROWS = THREADS / SUM_WIDTH;
  const int row = threadIdx.x / SUM_WIDTH;
  const int four = blockIdx.x * SUM_WIDTH + threadIdx.x % SUM_WIDTH;
  const int values = SIDE * SIDE * a.channels;  // of a chunk
  const bool works = four * 4 < values;
  float sums[4] = {};
  if (works) {
#pragma unroll 4
    for (int chunk = row; chunk < a.chunks; chunk += ROWS) {
      float more[4];
      load_channels<4>(a.partial + static_cast<long long>(chunk) * values, four, more);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        sums[i] += more[i];
      }
    }
  }
  __shared__ float handed[4][THREADS];
  for (int half = ROWS / 2; half > 0; half /= 2) {
    if (row >= half && row < 2 * half) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        handed[i][threadIdx.x] = sums[i];
      }
    }
    __syncthreads();
    if (row < half) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        sums[i] += handed[i][threadIdx.x + half * SUM_WIDTH];
      }
    }
    __syncthreads();
  }
  if (works && row == 0) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int tap = (four * 4 + i) / a.channels;
      const int channel = (four * 4 + i) % a.channels;
      T::store(a.dweight, channel * SIDE * SIDE + tap, sums[i]);
    }
  }
}

}  // namespace gpu
}  // namespace rsflow
