// y = x W^T + b. Each output of a row is added up in one order, whatever rows are beside it.
#pragma once
#include "tile.h"

constexpr long ROWS = 180;   // that are packed at once: their inputs stay in L2
constexpr long MOST_ROWS = 2 * ROWS;
constexpr long DEPTH = 512;  // inputs added up at once: a tile's rows of them stay in L1
constexpr long GROUP = 4;    // panels whose weights stay in L2 while all tiles pass


// Inputs in few parts of about one size.
struct Depths {
    long inputs, most, multiple;
    long size = round_up(ceil_div(inputs, ceil_div(inputs, most)), multiple);
    long at(long begin) const { return std::min(size, inputs - begin); }
};

// Two floats as bfloat16, the first of them in the lower half.
inline Pair pair_of(float first, float second) {
    bf16 both[2];
    narrow(first, &both[0]), narrow(second, &both[1]);
    Pair pair;
    memcpy(&pair, both, sizeof pair);
    return pair;
}

// Rows [height, inputs] from `x` on, of which those in [at, at + count) become a tile of `depth`.
inline void pack_tile(const float* x, long inputs, long height, long at, long count, long depth,
                      float* to) {
    turn_rows<TILE_ROWS>(x + at, inputs, height, count, to);
    std::fill(to + count * height, to + depth * height, 0.0f);
}

inline void pack_tile(const float* x, long inputs, long height, long at, long count, long depth,
                      Pair* to) {
    Pair pairs[TILE_ROWS][DEPTH];
    for (long row = 0; row < height; ++row) {
        const float* from = x + row * inputs + 2 * at;
        for (long i = 0; i < count; ++i) {
            bool is_whole = 2 * (at + i) + 1 < inputs;
            pairs[row][i] = pair_of(from[2 * i], is_whole ? from[2 * i + 1] : 0.0f);
        }
    }
    turn_rows<TILE_ROWS>((const float*)pairs, DEPTH, height, count, (float*)to);
}

// X is what rows are packed to: floats, or where the CPU multiplies bfloat16, pairs of those.
template <typename X, typename W> struct Product {
    static constexpr long AT_ONCE = std::is_same_v<X, Pair> ? 2 : 1;  // inputs in an X
    static constexpr bool WIDENS = AT_ONCE * sizeof(W) == 2;

    const Linear& linear;
    long inputs = ceil_div(linear.inputs, AT_ONCE);
    Depths depths{round_up(inputs, WIDENS ? 2 : 1), DEPTH, 2};

    // More rows share what is widened once for all of them.
    static Tiles blocks_of(long rows) { return {rows, WIDENS ? MOST_ROWS : ROWS}; }

    // x [rows, inputs] to `packed`: part after part of the inputs, in each tile after tile.
    void pack(const float* x, Tiles tiles, X* packed, Team team) const {
        long num_parts = ceil_div(depths.inputs, depths.size), count = num_parts * tiles.count;
        for (long i = team.begin(count); i < team.end(count); ++i) {
            long at = i / tiles.count * depths.size, depth = depths.at(at);
            long tile = i % tiles.count, first = tiles.begin(tile);
            pack_tile(x + first * linear.inputs, linear.inputs, tiles.height(tile), at,
                      std::min(depth, inputs - at), depth,
                      packed + at * tiles.rows + first * depth);
        }
    }

    // Outputs of panels [begin, end); loops from the outermost: inputs, panels, rows.
    void run(const X* packed, Tiles tiles, float* y, bool add, long begin, long end) const {
        for (long at = 0; at < depths.inputs; at += depths.size)
            for (long first = begin; first < end; first += GROUP)
                run_group(packed + at * tiles.rows, tiles, y, add || at, at,
                          first, std::min(first + GROUP, end), end);
        if (linear.bias) add_bias(y, tiles.rows, begin, end);
    }

    void run_group(const X* packed, Tiles tiles, float* y, bool add, long at, long begin, long end,
                   long last) const {
        alignas(64) float wide[WIDENS ? GROUP * DEPTH * PANEL : 1];
        long depth = depths.at(at), offset = at * AT_ONCE * PANEL;
        bool widens = WIDENS && tiles.count >= 3;  // as many find them done
        if constexpr (WIDENS)
            for (long p = begin; widens && p < end; ++p)
                widen(weights(p) + offset, depth, wide + (p - begin) * depth * PANEL);
        for (long tile = 0; tile < tiles.count; ++tile) {
            const X* x = packed + tiles.begin(tile) * depth;
            with_height(tiles.height(tile), [&](auto R) {
                by_panels<panels_beside(R)>(begin, end, [&](auto N, long p) {
                    float* to = y + tiles.begin(tile) * linear.outputs + p * PANEL;
                    Target target{to, linear.outputs, add};
                    auto ahead = next(tiles, tile, p, N, offset, depth, last);
                    long columns = linear.outputs - p * PANEL;
                    if (columns < PANEL)
                        return multiply_some<R>(x, weights(p) + offset, depth, ahead, target, columns);
                    if constexpr (WIDENS)
                        if (widens)
                            return multiply_tile<R, N>(x, wide + (p - begin) * depth * PANEL,
                                                       depth * PANEL, depth, ahead, target);
                    multiply_tile<R, N>(x, weights(p) + offset, panel_size<W>(linear), depth,
                                        ahead, target);
                });
            });
        }
    }

    const W* weights(long number) const { return panel<W>(linear, number); }

    // Call use(N, first) for panels that lie side by side, and with 1 for those that are left.
    template <int N, typename Use> void by_panels(long begin, long end, Use use) const {
        long whole = std::min(end, linear.outputs / PANEL);
        for (; begin + N <= whole; begin += N) use(std::integral_constant<int, N>{}, begin);
        for (; begin < end; ++begin) use(std::integral_constant<int, 1>{}, begin);
    }

    static void widen(const W* from, long depth, float* to) {
        for (long at = 0; at < depth * PANEL; at += 2 * PANEL)
            for (long part = 0; part < PANEL; part += LANES) {
                Bits pairs = load_pairs(from + at + 2 * part);
                store(to + at + part, first_of(pairs));
                store(to + at + PANEL + part, second_of(pairs));
            }
    }

    // One tile alone reads on in its panels; of several each fetches some of the next group.
    Ahead next(Tiles tiles, long tile, long p, long n, long offset, long depth, long last) const {
        const W* w = weights(p) + offset;
        long bytes = AT_ONCE * PANEL * sizeof(W);
        if (tiles.count == 1) return {(const char*)w + 2048, bytes};
        if (p + GROUP + n > std::min(last, linear.outputs / PANEL)) return {(const char*)w, 0};
        long share = bytes * n / tiles.count;
        w += (GROUP + tile % n) * panel_size<W>(linear);
        return {(const char*)w + tile / n * share * depth, share};
    }

    void add_bias(float* y, long rows, long begin, long end) const {
        long first = begin * PANEL, stop = std::min(end * PANEL, linear.outputs);
        for (long row = 0; row < rows; ++row)
            for (long i = first; i < stop; ++i)
                y[row * linear.outputs + i] += widened(((const W*)linear.bias)[i]);
    }
};

// Floats that `apply` needs room for.
inline long packed_size(long rows, long inputs) {
    return round_up(std::min(rows, MOST_ROWS), 16) * round_up(inputs, 32);
}

// y [rows, outputs] from x [rows, inputs]; on top of what y holds when `add` is set.
template <typename X, typename W>
void apply(const Linear& linear, const float* x, long rows, float* packed, float* y, bool add,
           Team team) {
    Product<X, W> product{linear};
    Tiles blocks = product.blocks_of(rows);
    long num_panels = ceil_div(linear.outputs, PANEL);
    for (long block = 0; block < blocks.count; ++block) {
        long first = blocks.begin(block);
        Tiles tiles{blocks.height(block), TILE_ROWS};
        product.pack(x + first * linear.inputs, tiles, (X*)packed, team);
        team.wait();
        product.run((X*)packed, tiles, y + first * linear.outputs, add, team.begin(num_panels),
                    team.end(num_panels));
        team.wait();
    }
}
