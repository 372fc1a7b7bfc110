// y = x W^T + b. Each output is added up in one order, however many rows there are.
#pragma once
#include <algorithm>
#include "vectors.h"

// A step's threads share every loop; `rank` is in [0, size).
struct Team {
    long rank, size;
    long begin(long count) const { return count * rank / size; }
    long end(long count) const { return count * (rank + 1) / size; }
    void wait() const {
#pragma omp barrier
    }
};

struct Linear {
    const void *weight, *bias;  // [outputs, inputs], [outputs] or null
    long inputs, outputs;
};

#ifdef __AVX512F__
constexpr int TILE_ROWS = 4, TILE_COLUMNS = 6;  // 24 of 32 registers hold sums
#else
constexpr int TILE_ROWS = 2, TILE_COLUMNS = 2;  // a Vec takes two of 16 registers
#endif
constexpr long DEPTH = 1024;  // inputs added up at once: a tile's columns of it fit into L1

// Dot products of R rows of x with C rows of w, [R, C]; `sums` has room for whole eights.
// With `ahead`, memory works on the C rows of w after these meanwhile: bfloat16 rows are too short
// for the CPU to notice by itself where the next ones will be.
template <int R, int C, bool ahead = false, typename W>
void dots(const float* x, long x_stride, const W* w, long w_stride, long depth, float* sums) {
    Vec sum[(R * C + 7) / 8 * 8] = {};
    auto add = [&](auto pick, long at) {
        Vec rows[R];
        for (int r = 0; r < R; ++r) rows[r] = pick(x + r * x_stride + at);
        for (int c = 0; c < C; ++c) {
            if (ahead) __builtin_prefetch(w + (C + c) * w_stride + at);
            Vec column = pick(w + c * w_stride + at);
            for (int r = 0; r < R; ++r) sum[r * C + c] += rows[r] * column;
        }
    };
    long whole = depth / LANES * LANES;
    for (long at = 0; at < whole; at += LANES) add([](auto from) { return load(from); }, at);
    if (whole < depth) add([&](auto from) { return load_part(from, depth - whole); }, whole);
    for (int i = 0; i < R * C; i += 8) sum_lanes(sum + i, sums + i);
}

// Call use(std::integral_constant<int, R>, first) over `rows`, R of them at once.
template <int R = TILE_ROWS, typename Use> void by_tiles(long rows, Use use, long first = 0) {
    for (; rows - first >= R; first += R) use(std::integral_constant<int, R>{}, first);
    if constexpr (R > 1)
        if (first < rows) by_tiles<R - 1>(rows, use, first);
}

// Floats from `from`; memory works on what will be needed `next` meanwhile.
template <typename W> void widen(const W* from, long count, float* to, const W* next) {
    long whole = count / LANES * LANES;
    for (long at = 0; at < whole; at += LANES) {
        __builtin_prefetch(next + at, 0, 2);
        store(to + at, load(from + at));
    }
    for (long at = whole; at < count; ++at) to[at] = widened(from[at]);
}

// C outputs of each row, from `first` on, and of their inputs those from `at` on.
template <int C, typename W> struct Columns {
    const Linear& linear;
    long first, at, depth;
    bool add;

    const W* weight() const { return (const W*)linear.weight + first * linear.inputs + at; }

    void multiply(const float* x, long rows, float* y) const {
        if (sizeof(W) == sizeof(float)) return tiles<false>(weight(), linear.inputs, x, rows, y);
        if (rows <= TILE_ROWS) return tiles<true>(weight(), linear.inputs, x, rows, y);
        // Many rows use these columns: turn them into floats once.
        alignas(64) float floats[C * DEPTH];
        for (int c = 0; c < C; ++c) {
            const W* column = weight() + c * linear.inputs;
            widen(column, depth, floats + c * depth, column + C * linear.inputs);
        }
        tiles<false>((const float*)floats, depth, x, rows, y);
    }

    template <bool ahead, typename V>
    void tiles(const V* columns, long stride, const float* x, long rows, float* y) const {
        by_tiles(rows, [&](auto R, long row) {
            float sums[(R * C + 7) / 8 * 8];
            auto from = x + row * linear.inputs + at;
            dots<R, C, ahead>(from, linear.inputs, columns, stride, depth, sums);
            for (int r = 0; r < R; ++r)
                finish(sums + r * C, y + (row + r) * linear.outputs + first);
        });
    }

    void finish(const float* sums, float* to) const {
        if (!add && !at)
            for (int c = 0; c < C; ++c) to[c] = sums[c];
        else
            for (int c = 0; c < C; ++c) to[c] += sums[c];
        if (linear.bias && !at)
            for (int c = 0; c < C; ++c) to[c] += widened(((const W*)linear.bias)[first + c]);
    }
};

// y [rows, outputs] from x [rows, inputs]; on top of what y holds when `add` is set.
template <typename W>
void apply(const Linear& linear, const float* x, long rows, float* y, bool add, Team team) {
    long groups = (linear.outputs + TILE_COLUMNS - 1) / TILE_COLUMNS;
    long first = team.begin(groups) * TILE_COLUMNS;
    long end = std::min(team.end(groups) * TILE_COLUMNS, linear.outputs);
    auto multiply = [&](auto C) {
        for (long at = 0; at < linear.inputs; at += DEPTH) {
            long depth = std::min(DEPTH, linear.inputs - at);
            Columns<C, W>{linear, first, at, depth, add}.multiply(x, rows, y);
        }
        first += C;
    };
    while (first + TILE_COLUMNS <= end) multiply(std::integral_constant<int, TILE_COLUMNS>{});
    while (first < end) multiply(std::integral_constant<int, 1>{});
}
