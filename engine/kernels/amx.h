// Products of bfloat16 by tile registers: rows are rounded, sums are floats.
#pragma once
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "linear.h"

constexpr long TILE = 16;         // rows, outputs, and pairs of inputs, of a register
constexpr long TILE_INPUTS = 32;  // of a row
constexpr long TILE_SIZE = TILE * TILE_INPUTS;

struct alignas(64) TileShapes {
    uint8_t palette = 1, start = 0, reserved[14] = {};
    uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {TILE, TILE, TILE, TILE, TILE, TILE, TILE, TILE};
};

// Linux lets a process have tile registers once it has asked.
inline bool may_use_tiles() {
    constexpr long ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18;
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}

struct TileProduct {
    const Linear& linear;
    Depths depths{round_up(linear.inputs, TILE_INPUTS), 1024, TILE_INPUTS};

    // Part after part of the inputs, tile after tile of rows, and step after step a register.
    void pack(const float* x, Tiles tiles, bf16* packed, Team team) const {
        long steps = depths.inputs / TILE_INPUTS, count = tiles.count * steps;
        for (long i = team.begin(count); i < team.end(count); ++i) {
            long tile = i / steps, input = i % steps * TILE_INPUTS;
            long at = input / depths.size * depths.size;
            bf16* to = packed + at * tiles.count * TILE + tile * TILE * depths.at(at) +
                       (input - at) * TILE;
            for (long row = tile * TILE; row < (tile + 1) * TILE; ++row, to += TILE_INPUTS)
                round_part(x + row * linear.inputs + input,
                           row < tiles.rows ? linear.inputs - input : 0, to);
        }
    }

    static void round_part(const float* from, long count, bf16* to) {
        auto low = (__m512)load_upto(from, count), high = (__m512)load_upto(from + LANES, count - LANES);
        auto both = _mm512_cvtne2ps_pbh(high, low);
        memcpy(to, &both, sizeof both);
    }

    void run(const bf16* packed, Tiles tiles, float* y, bool add, long begin, long end) const {
        for (long at = 0; at < depths.inputs; at += depths.size)
            for (long group = begin; group < end; group += GROUP)
                for (long tile = 0; tile < tiles.count; tile += 2)
                    for (long p = group; p < std::min(group + GROUP, end); p += 2)
                        multiply(packed + (at * tiles.count + tile * depths.at(at)) * TILE, at,
                                 p, std::min(p + 2, end) - p, y + tile * TILE * linear.outputs,
                                 std::min(tiles.rows - tile * TILE, 2 * TILE), add || at);
    }

    void multiply(const bf16* x, long at, long p, long num_panels, float* y, long rows, bool add) const {
        const bf16* w[2] = {panel<bf16>(linear, p), panel<bf16>(linear, p + num_panels - 1)};
        alignas(64) float sums[4][TILE * TILE];
        for (long row = 0; row < rows; ++row)
            for (long n = 0; n < num_panels; ++n)
                __builtin_prefetch(y + row * linear.outputs + (p + n) * PANEL);
        if (rows > TILE) num_panels > 1 ? sum<2, 2>(x, w, at, sums) : sum<2, 1>(x, w, at, sums);
        else num_panels > 1 ? sum<1, 2>(x, w, at, sums) : sum<1, 1>(x, w, at, sums);
        for (long row = 0; row < rows; ++row)
            for (long n = 0; n < num_panels; ++n) {
                Vec found = load(sums[row / TILE * 2 + n] + row % TILE * TILE);
                float* to = y + row * linear.outputs + (p + n) * PANEL;
                long left = linear.outputs - (p + n) * PANEL;
                store_upto(to, add ? load_upto(to, left) + found : found, left);
            }
    }

    // Registers 0 to 3 are sums, 4 and 5 rows, 6 and 7 weights.
    template <int ROWS_BESIDE, int PANELS_BESIDE>
    void sum(const bf16* x, const bf16* const* w, long at, float (*sums)[TILE * TILE]) const {
        long depth = depths.at(at), whole = std::min(depth, (linear.inputs - at) / TILE_INPUTS * TILE_INPUTS);
        auto add = [&](const bf16* rows, const bf16* first, const bf16* second) ALWAYS_INLINE {
            _tile_loadd(4, rows, 64);
            _tile_loadd(6, first, 64);
            if constexpr (PANELS_BESIDE > 1) _tile_loadd(7, second, 64);
            if constexpr (ROWS_BESIDE > 1) _tile_loadd(5, rows + depth * TILE, 64);
            _tile_dpbf16ps(0, 4, 6);
            if constexpr (PANELS_BESIDE > 1) _tile_dpbf16ps(1, 4, 7);
            if constexpr (ROWS_BESIDE > 1) _tile_dpbf16ps(2, 5, 6);
            if constexpr (ROWS_BESIDE * PANELS_BESIDE > 2) _tile_dpbf16ps(3, 5, 7);
        };
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        for (long k = 0; k < whole; k += TILE_INPUTS)
            add(x + k * TILE, w[0] + (at + k) * PANEL, w[1] + (at + k) * PANEL);
        if (whole < depth) {
            bf16 rest[2][TILE_SIZE] = {};
            long left = round_up(linear.inputs - at - whole, 2) * PANEL;
            for (int n = 0; n < 2; ++n)
                memcpy(rest[n], w[n] + (at + whole) * PANEL, left * sizeof(bf16));
            add(x + whole * TILE, rest[0], rest[1]);
        }
        _tile_stored(0, sums[0], 64);
        if constexpr (PANELS_BESIDE > 1) _tile_stored(1, sums[1], 64);
        if constexpr (ROWS_BESIDE > 1) _tile_stored(2, sums[2], 64);
        if constexpr (ROWS_BESIDE * PANELS_BESIDE > 2) _tile_stored(3, sums[3], 64);
    }
};

// As `apply`, with weights of bfloat16.
inline void apply_tiles(const Linear& linear, const float* x, long rows, float* packed, float* y,
                        bool add, Team team) {
    TileProduct product{linear};
    TileShapes shapes;
    Tiles blocks{rows, 256};
    long num_panels = ceil_div(linear.outputs, PANEL);
    _tile_loadconfig(&shapes);
    for (long block = 0; block < blocks.count; ++block) {
        long first = blocks.begin(block), height = blocks.height(block);
        Tiles tiles{height, TILE};
        product.pack(x + first * linear.inputs, tiles, (bf16*)packed, team);
        team.wait();
        float* to = y + first * linear.outputs;
        product.run((bf16*)packed, tiles, to, add, team.begin(num_panels), team.end(num_panels));
        if (linear.bias)
            Product<Pair, bf16>{linear}.add_bias(to, height, team.begin(num_panels), team.end(num_panels));
        team.wait();
    }
    _tile_release();
}
