// Products that stay in registers: some rows of a tile with some panels of weights.
#pragma once
#include "panels.h"
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

constexpr int PARTS = PANEL / LANES;  // vectors across a panel

// Sums fill the registers, but for a vector of each part of the weights and one of a row.
constexpr int SUMS = REGISTERS == 16 ? 12 : PARTS == 1 ? 28 : 24;
constexpr int TILE_ROWS = PARTS == 1 ? SUMS / 2 : SUMS / PARTS;

// Panels that fit beside so many rows.
constexpr int panels_beside(int rows) {
    return rows * 4 * PARTS <= SUMS ? 4 : rows * 2 * PARTS <= SUMS ? 2 : 1;
}

// Two inputs of a row, rounded to bfloat16, as one number.
struct Pair {
    uint32_t bits;
};

// What memory may work on meanwhile: so many bytes for each input. (Compilers drop calls of
// functions that do nothing but fetch, so that loops do it themselves.)
struct Ahead {
    const char* from;
    long step;
};

#define ALWAYS_INLINE __attribute__((always_inline))

template <int R, int V, typename Column>
ALWAYS_INLINE inline void add_input(const float* x, Vec* sums, Column column) {
    Vec columns[V];
    for (int v = 0; v < V; ++v) columns[v] = column(v);
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < V; ++v) sums[r * V + v] += x[r] * columns[v];
}

// sums [R, N * PARTS] += x [depth][R] times N panels that lie `stride` apart.
template <int R, int N>
ALWAYS_INLINE inline void add_products(const float* x, const float* w, long stride, long depth,
                                       Ahead ahead, Vec* sums) {
    for (long k = 0; k < depth; ++k) {
        __builtin_prefetch(ahead.from + k * ahead.step);
        add_input<R, N * PARTS>(x + k * R, sums, [&](int v) ALWAYS_INLINE {
            return load(w + v / PARTS * stride + k * PANEL + v % PARTS * LANES);
        });
    }
}

// The same with weights that are widened on their way; `depth` is even.
template <int R, int N>
ALWAYS_INLINE inline void add_products(const float* x, const bf16* w, long stride, long depth,
                                       Ahead ahead, Vec* sums) {
    for (long k = 0; k < depth; k += 2) {
        __builtin_prefetch(ahead.from + k * ahead.step);
        auto pairs = [&](int v) ALWAYS_INLINE {
            return load_pairs(w + v / PARTS * stride + k * PANEL + v % PARTS * 2 * LANES);
        };
        add_input<R, N * PARTS>(x + k * R, sums, [&](int v) ALWAYS_INLINE {
            return first_of(pairs(v));
        });
        add_input<R, N * PARTS>(x + k * R + R, sums, [&](int v) ALWAYS_INLINE {
            return second_of(pairs(v));
        });
    }
}

#ifdef __AVX512BF16__
// The same with rows that are rounded to bfloat16; `depth` counts pairs.
template <int R, int N>
ALWAYS_INLINE inline void add_products(const Pair* x, const bf16* w, long stride, long depth,
                                       Ahead ahead, Vec* sums) {
    for (long k = 0; k < depth; ++k) {
        __builtin_prefetch(ahead.from + k * ahead.step);
        __m512bh columns[N];
        for (int n = 0; n < N; ++n)
            columns[n] = (__m512bh)load_pairs(w + n * stride + k * 2 * PANEL);
        for (int r = 0; r < R; ++r) {
            auto row = (__m512bh)_mm512_set1_epi32(x[k * R + r].bits);
            for (int n = 0; n < N; ++n)
                sums[r * N + n] = (Vec)_mm512_dpbf16_ps((__m512)sums[r * N + n], row, columns[n]);
        }
    }
}
#endif

// Where a tile's sums go: rows of y, on top of what is there when `add` is set.
struct Target {
    float* y;
    long stride;
    bool add;
};

template <int R, int N, typename X, typename W>
__attribute__((noinline)) void multiply_tile(const X* x, const W* w, long stride, long depth,
                                             Ahead ahead, Target target) {
    constexpr int V = N * PARTS;
    for (int r = 0; r < R; ++r)
        for (int n = 0; n < N; ++n)
            __builtin_prefetch(target.y + r * target.stride + n * PANEL);
    Vec sums[R * V] = {};
    add_products<R, N>(x, w, stride, depth, ahead, sums);
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < V; ++v) {
            float* to = target.y + r * target.stride + v * LANES;
            store(to, target.add ? load(to) + sums[r * V + v] : sums[r * V + v]);
        }
}

// One panel, of whose outputs y has but `columns`.
template <int R, typename X, typename W>
void multiply_some(const X* x, const W* w, long depth, Ahead ahead, Target target, long columns) {
    float sums[R][PANEL];
    multiply_tile<R, 1>(x, w, 0, depth, ahead, {sums[0], PANEL, false});
    for (long r = 0; r < R; ++r)
        for (long i = 0; i < columns; ++i) {
            float* to = target.y + r * target.stride + i;
            *to = target.add ? *to + sums[r][i] : sums[r][i];
        }
}

// Call use(std::integral_constant<int, R>) where R is `height`.
template <int R = TILE_ROWS, typename Use> void with_height(long height, Use use) {
    if (R == 1 || height == R) use(std::integral_constant<int, R>{});
    else if constexpr (R > 1) with_height<R - 1>(height, use);
}
