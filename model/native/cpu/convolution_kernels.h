// The kernels of `convolution.cpp`. `convolution_sets.cpp` includes this text once for each instruction set, each in
// its own namespace, with `Vector` and what can be done with it.

// R pixels by N vectors of channels of the output, all of whose sums are in registers.
template <int R, int N>
void sum_products(const Tile& tile) {
  Vector sums[R][N];
  for (int r = 0; r < R; ++r) {
    for (int n = 0; n < N; ++n) {
      sums[r][n] = zero();
    }
  }
  const float* weights = tile.weights;
  const char* ahead = tile.ahead;
  for (std::int64_t tap = 0; tap < tile.taps; ++tap) {
    const float* pixels[R];
    for (int r = 0; r < R; ++r) {
      pixels[r] = tile.pixels[tap * ROWS + r] + tile.offset;
    }
    for (std::int64_t k = 0; k < tile.run; ++k) {
      Vector w[N];
      for (int n = 0; n < N; ++n) {
        w[n] = load(weights + n * LANES);
      }
      weights += N * LANES;
      prefetch(ahead);
      ahead += tile.step;
      for (int r = 0; r < R; ++r) {
        const Vector x = broadcast(pixels[r][k]);
        for (int n = 0; n < N; ++n) {
          sums[r][n] = multiply_add(x, w[n], sums[r][n]);
        }
      }
    }
  }
  if (!tile.is_first) {
    for (int r = 0; r < R; ++r) {
      for (int n = 0; n < N; ++n) {
        const float* const from = tile.output + r * tile.outputs + n * LANES;
        sums[r][n] = add(sums[r][n], n + 1 < N ? load(from) : load_some(from, tile.last));
      }
    }
  }
  if (!tile.is_last) {
    for (int r = 0; r < R; ++r) {
      for (int n = 0; n < N; ++n) {
        float* const to = tile.output + r * tile.outputs + n * LANES;
        n + 1 < N ? store(to, sums[r][n]) : store_some(to, sums[r][n], tile.last);
      }
    }
    return;
  }
  for (int n = 0; n < N; ++n) {
    const auto get = [&](const float* from) {
      return n + 1 < N ? load(from + n * LANES) : load_some(from + n * LANES, tile.last);
    };
    const Vector scale = get(tile.scale), shift = get(tile.shift);
    for (int r = 0; r < R; ++r) {
      sums[r][n] = multiply_add(sums[r][n], scale, shift);
    }
    if (tile.residual != nullptr) {
      for (int r = 0; r < R; ++r) {
        sums[r][n] = add(sums[r][n], get(tile.residual + r * tile.outputs));
      }
    }
    for (int r = 0; r < R; ++r) {
      const Vector y = clamp(sums[r][n], tile.low, tile.high);
      float* const to = tile.output + r * tile.outputs + n * LANES;
      n + 1 < N ? store(to, y) : store_some(to, y, tile.last);
    }
  }
}

template <int N>
void sum_rows(const Tile& tile, int rows) {
  static_assert(ROWS == 6);
  switch (rows) {
    case 1:
      return sum_products<1, N>(tile);
    case 2:
      return sum_products<2, N>(tile);
    case 3:
      return sum_products<3, N>(tile);
    case 4:
      return sum_products<4, N>(tile);
    case 5:
      return sum_products<5, N>(tile);
    default:
      return sum_products<6, N>(tile);
  }
}

void compute_tile(const Tile& tile, int rows, int vectors) {
  if (vectors == 1) {
    return sum_rows<1>(tile, rows);
  }
  if constexpr (WIDEST == 2) {
    return sum_rows<2>(tile, rows);
  } else {
    return vectors == 2 ? sum_rows<2>(tile, rows) : vectors == 3 ? sum_rows<3>(tile, rows) : sum_rows<4>(tile, rows);
  }
}

// The nine products of each of P pixels of one output row, which are STRIDE columns apart in the input, for
// the channels from `c` on.
template <int P, bool SOME>
INLINE void sum_window(const Row& row, std::int64_t first, std::int64_t c, int count) {
  const auto get = [&](const float* from) { return SOME ? load_some(from + c, count) : load(from + c); };
  Vector sums[P];
  for (int p = 0; p < P; ++p) {
    sums[p] = zero();
  }
  for (int ky = 0; ky < 3; ++ky) {
    if (row.input[ky] == nullptr) {
      continue;
    }
    for (int kx = 0; kx < 3; ++kx) {
      const Vector w = get(row.weights + (3 * ky + kx) * row.channels);
      for (int p = 0; p < P; ++p) {
        const auto column = (first + p) * row.stride - row.left + kx;
        // Several pixels at once are within the image.
        if (P > 1 || (column >= 0 && column < row.width)) {
          sums[p] = multiply_add(get(row.input[ky] + column * row.channels), w, sums[p]);
        }
      }
    }
  }
  const Vector scale = get(row.scale), shift = get(row.shift);
  for (int p = 0; p < P; ++p) {
    Vector y = multiply_add(sums[p], scale, shift);
    const auto at = (first + p) * row.channels;
    if (row.residual != nullptr) {
      y = add(y, get(row.residual + at));
    }
    y = clamp(y, row.low, row.high);
    float* const to = row.output + at + c;
    SOME ? store_some(to, y, count) : store(to, y);
  }
}

template <int P>
INLINE void sum_windows(const Row& row, std::int64_t first) {
  std::int64_t c = 0;
  for (; c + LANES <= row.channels; c += LANES) {
    sum_window<P, false>(row, first, c, LANES);
  }
  if (c < row.channels) {
    sum_window<P, true>(row, first, c, static_cast<int>(row.channels - c));
  }
}

// A row of a depthwise convolution.
void compute_row(const Row& row) {
  constexpr int TOGETHER = 4;
  std::int64_t x = 0;
  while (x < row.outputs) {
    const auto end = (x + TOGETHER - 1) * row.stride - row.left + 2;
    if (x * row.stride >= row.left && end < row.width && x + TOGETHER <= row.outputs) {
      sum_windows<TOGETHER>(row, x);
      x += TOGETHER;
    } else {
      sum_windows<1>(row, x);
      x += 1;
    }
  }
}
