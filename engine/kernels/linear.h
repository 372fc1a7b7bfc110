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
constexpr int TILE_ROWS = 8, TILE_SUMS = 24, TILE_COLUMNS = 6;  // sums in 24 of 32 registers
#else
constexpr int TILE_ROWS = 2, TILE_SUMS = 6, TILE_COLUMNS = 3;  // a Vec takes two of 16 registers
#endif
constexpr long CHUNK = 2 * LANES;  // inputs are taken by so many
constexpr long PANEL = 48;         // outputs whose weights stay in L2 while rows are multiplied

// Inputs added up at once, at most: a tile's rows of them fit into L1, beside weights that pass.
template <typename W> constexpr long DEPTH = sizeof(W) == 2 ? 768 : 512;

constexpr int columns_beside(int rows) { return std::min(TILE_COLUMNS, TILE_SUMS / rows); }

inline long ceil_div(long number, long by) { return (number + by - 1) / by; }
inline long whole_chunks(long inputs) { return ceil_div(inputs, CHUNK) * CHUNK; }

// Call use(std::integral_constant<int, R>, first) over `rows`, R of them at once.
template <int R, typename Use> void by_tiles(long rows, Use use, long first = 0) {
    for (; rows - first >= R; first += R) use(std::integral_constant<int, R>{}, first);
    if constexpr (R > 1)
        if (first < rows) by_tiles<R - 1>(rows, use, first);
}

// Rows in as few tiles as there must be, all of about one height.
struct Tiles {
    long rows, count = ceil_div(rows, TILE_ROWS);
    long begin(long tile) const { return rows * tile / count; }

    // Call use(std::integral_constant<int, R>, first) for one of them.
    template <int R = TILE_ROWS, typename Use> void use(long tile, Use call) const {
        if (R == 1 || begin(tile + 1) - begin(tile) == R)
            call(std::integral_constant<int, R>{}, begin(tile));
        else if constexpr (R > 1)
            use<R - 1>(tile, call);
    }
};

// Rows of x for products: chunk by chunk all rows of a tile, zeros behind the last input. Beside
// weights of bfloat16, of which two are read as one number, even inputs lie before odd ones.
template <typename W> void pack(const float* x, long rows, long inputs, float* to, Team team) {
    long count = ceil_div(inputs, CHUNK);
    Tiles tiles{rows};
    for (long tile = 0; tile < tiles.count; ++tile) {
        long first = tiles.begin(tile), height = tiles.begin(tile + 1) - first;
        for (long chunk = team.begin(count); chunk < team.end(count); ++chunk)
            for (long row = 0; row < height; ++row) {
                long at = chunk * CHUNK;
                const float* from = x + (first + row) * inputs + at;
                Vec low = load_upto(from, inputs - at);
                Vec high = load_upto(from + LANES, inputs - at - LANES);
                float* place = to + (first * count + chunk * height + row) * CHUNK;
                store(place, sizeof(W) == 2 ? evens(low, high) : low);
                store(place + LANES, sizeof(W) == 2 ? odds(low, high) : high);
            }
    }
    team.wait();
}

// Dot products of R packed rows, of the `height` rows of their tile, with C rows of w: [R, C];
// `sums` has room for whole eights.
// Memory works on what lies `ahead` of each row of w meanwhile: they are too short for the CPU to
// notice by itself where the next ones will be.
template <int R, int C, typename W>
void dots(const float* x, long height, const W* w, long stride, long depth,
          const long* ahead, float* sums) {
    Vec sum[(R * C + 7) / 8 * 8] = {};
    auto add_half = [&](const float* rows, auto column) {
        Vec columns[C];
        for (int c = 0; c < C; ++c) columns[c] = column(c);
        for (int r = 0; r < R; ++r) {
            Vec row = load(rows + r * CHUNK);
            for (int c = 0; c < C; ++c) sum[r * C + c] += row * columns[c];
        }
    };
    auto add = [&](const float* rows, auto chunk) {
        add_half(rows, [&](int c) { return first_half(chunk(c)); });
        add_half(rows + LANES, [&](int c) { return second_half(chunk(c)); });
    };
    long whole = depth / CHUNK * CHUNK;
    for (long at = 0; at < whole; at += CHUNK) {
        for (int c = 0; c < C; ++c)
            for (long line = 0; line < CHUNK; line += 64 / long(sizeof(W)))
                // Few rows are done with these before others push what is fetched out of L1.
                __builtin_prefetch(w + c * stride + at + line + ahead[c], 0, R <= 4 ? 3 : 2);
        add(x + at * height, [&](int c) { return w + c * stride + at; });
    }
    if (whole < depth) {
        W rest[C][CHUNK] = {};
        for (int c = 0; c < C; ++c)
            memcpy(rest[c], w + c * stride + whole, (depth - whole) * sizeof(W));
        add(x + whole * height, [&](int c) { return rest[c]; });
    }
    for (int i = 0; i < R * C; i += 8) sum_lanes(sum + i, sums + i);
}

// Outputs [begin, end), and of their inputs those from `at` on.
struct Block {
    long begin, end, at;
};

// Outputs of packed rows of x. Loops, from the outermost: outputs that stay in L2, inputs that
// stay in L1, tiles of rows, and outputs that stay in registers.
template <typename W> struct Product {
    const Linear& linear;
    const float* packed;
    Tiles tiles;
    float* y;
    bool add;
    // One row takes weights as they lie; more of them are worth coming back to.
    long panel = std::min(12 * tiles.rows, PANEL);
    long depth = whole_chunks(ceil_div(linear.inputs, ceil_div(linear.inputs, DEPTH<W>)));

    void run(long begin, long end) const {
        for (; begin < end; begin += panel)
            for (long at = 0; at < linear.inputs; at += depth)
                for (long tile = 0; tile < tiles.count; ++tile)
                    tiles.use(tile, [&](auto R, long row) {
                        multiply<R>({begin, std::min(begin + panel, end), at}, row, tile);
                    });
    }

    template <int R> void multiply(const Block& block, long row, long tile) const {
        constexpr int C = columns_beside(R);
        long first = block.begin, fetched[C], ahead[C];
        for (int c = 0; c < C; ++c) fetched[c] = c % tiles.count == tile;
        for (; block.end - first >= C; first += C) {
            for (int c = 0; c < C; ++c) ahead[c] = fetched[c] * distance(block, first, C);
            group<R, C>(first, block.at, row, ahead);
        }
        for (long nothing = 0; first < block.end; ++first)  // so few that it does not matter how
            for (long i = 0; i < R; ++i) group<1, 1>(first, block.at, row, &nothing, i, R);
    }

    // How far behind weights of `block` those are that come next: of many tiles, each fetches some
    // of the next block, and one alone the next columns.
    long distance(const Block& block, long first, int columns) const {
        if (tiles.count == 1 && first + columns < block.end) return columns * linear.inputs;
        bool is_last = block.at + depth >= linear.inputs;
        long next = is_last ? panel * linear.inputs - block.at : depth;
        return tiles.count == 1 ? next - (first - block.begin) * linear.inputs : next;
    }

    // R rows from `row + skipped` on, of a tile that begins with `row`.
    template <int R, int C>
    void group(long first, long at, long row, const long* ahead, long skipped = 0,
               long height = R) const {
        auto weight = (const W*)linear.weight + first * linear.inputs + at;
        auto x = packed + row * whole_chunks(linear.inputs) + at * height + skipped * CHUNK;
        long count = std::min(depth, linear.inputs - at);
        float sums[(R * C + 7) / 8 * 8];
        dots<R, C>(x, height, weight, linear.inputs, count, ahead, sums);
        for (int r = 0; r < R; ++r)
            finish<C>(sums + r * C, y + (row + skipped + r) * linear.outputs + first, first, !at);
    }

    template <int C> void finish(const float* sums, float* to, long first, bool begins) const {
        if (!add && begins)
            for (int c = 0; c < C; ++c) to[c] = sums[c];
        else
            for (int c = 0; c < C; ++c) to[c] += sums[c];
        if (linear.bias && begins)
            for (int c = 0; c < C; ++c) to[c] += widened(((const W*)linear.bias)[first + c]);
    }
};

// y [rows, outputs] from x [rows, inputs]; on top of what y holds when `add` is set. `packed` has
// room for rows of whole chunks.
template <typename W>
void apply(const Linear& linear, const float* x, long rows, float* packed, float* y, bool add,
           Team team) {
    pack<W>(x, rows, linear.inputs, packed, team);
    long groups = ceil_div(linear.outputs, TILE_COLUMNS);
    long end = std::min(team.end(groups) * TILE_COLUMNS, linear.outputs);
    Product<W>{linear, packed, Tiles{rows}, y, add}.run(team.begin(groups) * TILE_COLUMNS, end);
    team.wait();
}
