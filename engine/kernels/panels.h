// How products read their operands: weights in panels of outputs, rows of inputs in tiles.
#pragma once
#include "team.h"
#include "vectors.h"

constexpr long PANEL = 16;  // outputs of which a panel holds one input after the other

// A weight as panels [inputs][PANEL] of floats, or [inputs / 2][PANEL][2] of bfloat16.
struct Linear {
    const void *weight, *tail, *bias;  // whole panels, a last one with zeros behind, or null
    long inputs, outputs;
};

inline long ceil_div(long number, long by) { return (number + by - 1) / by; }
inline long round_up(long number, long by) { return ceil_div(number, by) * by; }

template <typename W> long panel_size(const Linear& linear) {
    return PANEL * round_up(linear.inputs, 4 / long(sizeof(W)));
}

template <typename W> const W* panel(const Linear& linear, long number) {
    bool is_whole = (number + 1) * PANEL <= linear.outputs;
    return is_whole ? (const W*)linear.weight + number * panel_size<W>(linear)
                    : (const W*)linear.tail;
}

// PANEL rows of `count` numbers of four bytes each become columns; rows lie `stride` apart.
inline void turn_panel(const float* rows, long stride, long count, float* to) {
    for (long at = 0; at < count; at += LANES)
        for (long first = 0; first < PANEL; first += LANES) {
            Vec square[LANES];
            for (long i = 0; i < LANES; ++i)
                square[i] = load_upto(rows + (first + i) * stride + at, count - at);
            transpose(square);
            for (long i = 0; i < std::min(LANES, count - at); ++i)
                store(to + (at + i) * PANEL + first, square[i]);
        }
}

// A weight's rows become panels where they lie; `spare` has room for PANEL rows of each thread.
inline void turn_weight(float* rows, long num_panels, long count, float* spare, Team team) {
    long size = PANEL * count;
    spare += team.rank * size;
    for (long number = team.begin(num_panels); number < team.end(num_panels); ++number) {
        memcpy(spare, rows + number * size, size * sizeof(float));
        turn_panel(spare, count, count, rows + number * size);
    }
}

// An output's weights, as floats in a row.
template <typename W> void read_output(const Linear& linear, long output, float* to) {
    constexpr long AT_ONCE = 4 / sizeof(W);
    const W* from = panel<W>(linear, output / PANEL) + output % PANEL * AT_ONCE;
    for (long at = 0; at < linear.inputs; ++at)
        to[at] = widened(from[at / AT_ONCE * PANEL * AT_ONCE + at % AT_ONCE]);
}

// Rows in as few tiles of `most` as there must be, all of about one height.
struct Tiles {
    long rows, most, count = ceil_div(rows, most);
    long begin(long tile) const { return rows * tile / count; }
    long height(long tile) const { return begin(tile + 1) - begin(tile); }
};

// `height` rows become a tile, [count][height].
template <int MOST>
void turn_rows(const float* rows, long stride, long height, long count, float* to) {
    constexpr long SQUARES = (MOST + LANES - 1) / LANES;
    long at = 0;
    // What a vector has too much is overwritten by the next one, or by what follows them.
    for (; (count - at - LANES) * height >= LANES; at += LANES) {
        Vec square[SQUARES][LANES] = {};
        for (long row = 0; row < height; ++row)
            square[row / LANES][row % LANES] = load(rows + row * stride + at);
        for (long s = 0; s < SQUARES; ++s) transpose(square[s]);
        for (long i = 0; i < LANES; ++i)
            for (long s = 0; s * LANES < height; ++s)
                store(to + (at + i) * height + s * LANES, square[s][i]);
    }
    for (; at < count; ++at)
        for (long row = 0; row < height; ++row)  // they may be numbers of another kind
            memcpy(to + at * height + row, rows + row * stride + at, sizeof(float));
}
