// Attention over the paged cache, block by block where it lies.
#pragma once
#include <vector>
#include "linear.h"

struct Model {
    long hidden, inner, heads, kv_heads, head_size, is_bf16;
    float eps;
};

// The cache, [blocks, layers, 2, kv_heads, block_size, head_size]; block_size is a power of two.
struct Cache {
    void* base;
    long layers, block_size, is_bf16;
};

// Tokens [start, start + count) of a sequence, from row `row` of the step on.
struct Span {
    long row, start, count, blocks;  // its block table begins there among the step's
};

struct Step {
    long rows, num_spans, num_threads, by_position;
    const Span* spans;
    const int32_t* blocks;
    const float *cosines, *sines;  // [rows or positions, head_size / 2]
    float* hidden;  // [rows, hidden]
    float* narrow;  // [rows, hidden] or [rows, heads * head_size]
    float* wide;    // [rows, (heads + 2 kv_heads) * head_size], or [rows, 2 inner] and [rows, inner]
    float* packed;  // [rows, whole chunks of inputs] of the product at work
};

// Keys (part 0) or values (part 1) of one head from `position` on, up to the block's end.
template <typename C>
C* slots(const Model& m, const Cache& cache, long layer, const int32_t* blocks, long position,
         long part, long head) {
    // Divisions by a number that only runtime knows would take longer than what they find.
    long block = blocks[position >> __builtin_ctzl(cache.block_size)];
    long tile = (block * cache.layers + layer) * 2 + part;
    long row = (tile * m.kv_heads + head) * cache.block_size + (position & (cache.block_size - 1));
    return (C*)cache.base + row * m.head_size;
}

constexpr long KEYS = 32;  // keys that are gathered at once
constexpr long ROWS = 48;  // queries that share them, about

// Queries that attend together: those that share some key heads, of some tokens in a row.
struct Task {
    const Span* span;
    long first, tokens;  // `first` counts within the span
    long head, heads;    // from key head `head` on
    long begin, end;     // keys that some of them see
};

template <typename C> struct Attention {
    const Model& m;
    const Cache& cache;
    const Step& step;
    long layer, window;  // 0: sees everything
    long group = m.heads / m.kv_heads, padded = (m.head_size + LANES - 1) / LANES * LANES;
    std::vector<float> queries{}, scores{}, sums{}, mixed{}, gathered{};

    void run(Team team) {
        gathered.resize(KEYS * padded);
        long tile = std::max(1L, ROWS / group), number = 0, most = heads_for(team);
        for (long i = 0; i < step.num_spans; ++i)
            for (long first = 0; first < step.spans[i].count; first += tile) {
                long rows = std::min(tile, step.spans[i].count - first) * group;
                long heads = std::max(1L, std::min(most, ROWS / rows));
                for (long head = 0; head < m.kv_heads; head += heads)
                    if (number++ % team.size == team.rank)
                        attend(task(step.spans[i], first, tile, head, heads));
            }
    }

    // A block's heads lie in a row. Few queries mostly wait for memory, and long runs are read
    // faster than short ones, so they take heads together; not so many that threads go idle.
    long heads_for(Team team) const {
        if (team.size == 1) return m.kv_heads;
        return step.num_spans * m.kv_heads / (4 * team.size);
    }

    Task task(const Span& span, long first, long tile, long head, long heads) const {
        long tokens = std::min(tile, span.count - first), start = span.start + first;
        // A key has the same lane in every tile, and so one order of sums.
        long begin = window ? std::max(0L, start + 1 - window) / KEYS * KEYS : 0;
        heads = std::min(heads, m.kv_heads - head);
        return {&span, first, tokens, head, heads, begin, start + tokens};
    }

    void attend(const Task& task) {
        long of_head = task.tokens * group, rows = task.heads * of_head;
        long start = task.span->start + task.first;
        long width = (task.end - task.begin + KEYS - 1) / KEYS * KEYS;
        gather_queries(task, rows);
        scores.resize(rows * width);
        sums.resize(rows);
        mixed.assign(rows * padded, 0.0f);
        for (long key = 0; key < width; key += KEYS)
            for (long head = 0; head < task.heads; ++head) {
                gather_keys(task, head, task.begin + key);
                by_tiles<8>((head + 1) * of_head, [&](auto R, long row) { score<R>(row, width, key); },
                            head * of_head);
            }
        for (long row = 0; row < rows; ++row) {
            long self = start + row % of_head / group - task.begin;
            sums[row] = soften(scores.data() + row * width, self, width);
        }
        for (long key = 0; key < width; key += KEYS)
            for (long head = 0; head < task.heads; ++head) {
                long count = gather_values(task, head, task.begin + key);
                by_tiles<6>((head + 1) * of_head,
                            [&](auto R, long row) { mix<R>(row, width, key, count); },
                            head * of_head);
            }
        for (long row = 0; row < rows; ++row) {
            float* to = place(task, row, step.narrow, m.heads);
            for (long i = 0; i < m.head_size; ++i)
                to[i] = mixed[row * padded + i] / sums[row];
        }
    }

    float* place(const Task& task, long row, float* base, long num_heads) const {
        long head = row / (task.tokens * group), of_head = row % (task.tokens * group);
        long token = task.span->row + task.first + of_head / group;
        return base + (token * num_heads + (task.head + head) * group + row % group) * m.head_size;
    }

    void gather_queries(const Task& task, long rows) {
        float scale = 1.0f / std::sqrt(float(m.head_size));
        queries.resize(rows * m.head_size);
        for (long row = 0; row < rows; ++row) {
            const float* from = place(task, row, step.wide, m.heads + 2 * m.kv_heads);
            for (long i = 0; i < m.head_size; ++i)
                queries[row * m.head_size + i] = from[i] * scale;
        }
    }

    // Keys or values of [first, first + KEYS), null beyond the end; what follows is fetched.
    long find(const Task& task, long head, long first, long part, const C** found) const {
        long count = std::min(KEYS, task.end - first);
        by_blocks(task, head, first, part, count, [&](long i, const C* run, long length) {
            for (long j = 0; j < length; ++j) found[i + j] = run + j * m.head_size;
        });
        std::fill(found + count, found + KEYS, nullptr);
        if (head + 1 < task.heads) fetch(task, head + 1, first, part, count);
        else fetch(task, 0, first + count, part, std::min(KEYS, task.end - first - count));
        return count;
    }

    void fetch(const Task& task, long head, long first, long part, long count) const {
        by_blocks(task, head, first, part, count, [&](long, const C* run, long length) {
            for (long byte = 0; byte < length * m.head_size * long(sizeof(C)); byte += 64)
                __builtin_prefetch((const char*)run + byte);
        });
    }

    // Call use(i, run, length) for keys that lie in a row, from number first + i on.
    template <typename Use>
    void by_blocks(const Task& task, long head, long first, long part, long count, Use use) const {
        for (long i = 0, length; i < count; i += length) {
            long left = cache.block_size - ((first + i) & (cache.block_size - 1));
            length = std::min(left, count - i);
            auto blocks = step.blocks + task.span->blocks;
            use(i, slots<C>(m, cache, layer, blocks, first + i, part, task.head + head), length);
        }
    }

    // gathered [head_size, KEYS]
    void gather_keys(const Task& task, long head, long first) {
        const C* keys[KEYS];
        find(task, head, first, 0, keys);
        for (long half = 0; half < KEYS; half += LANES) {
            long at = 0;
            if constexpr (sizeof(C) == 2)
                for (; at + CHUNK <= m.head_size; at += CHUNK) gather_pairs(keys + half, at, half);
            for (; at < m.head_size; at += LANES) {
                Vec square[LANES];
                for (long i = 0; i < LANES; ++i)
                    square[i] = keys[half + i] ? load_upto(keys[half + i] + at, m.head_size - at) : Vec{};
                transpose(square);
                for (long i = 0; i < LANES; ++i)
                    store(gathered.data() + (at + i) * KEYS + half, square[i]);
            }
        }
    }

    // Components [at, at + CHUNK) of a vector's worth of keys, two of them moving as one number.
    void gather_pairs(const C* const* keys, long at, long half) {
        Vec square[LANES];
        for (long i = 0; i < LANES; ++i) square[i] = keys[i] ? (Vec)load_pairs(keys[i] + at) : Vec{};
        transpose(square);
        for (long i = 0; i < LANES; ++i) {
            float* to = gathered.data() + (at + 2 * i) * KEYS + half;
            store(to, (Vec)((Bits)square[i] << 16));
            store(to + KEYS, (Vec)((Bits)square[i] & 0xffff0000u));
        }
    }

    // gathered [KEYS, padded]
    long gather_values(const Task& task, long head, long first) {
        const C* values[KEYS];
        long count = find(task, head, first, 1, values);
        for (long i = 0; i < count; ++i)
            for (long at = 0; at < m.head_size; at += LANES)
                store(gathered.data() + i * padded + at, load_upto(values[i] + at, m.head_size - at));
        return count;
    }

    // Scores of R queries with the gathered keys.
    template <int R> void score(long row, long width, long key) {
        Vec low[R] = {}, high[R] = {};
        const float* query = queries.data() + row * m.head_size;
        for (long i = 0; i < m.head_size; ++i) {
            Vec first = load(gathered.data() + i * KEYS);
            Vec second = load(gathered.data() + i * KEYS + LANES);
            for (int r = 0; r < R; ++r) {
                low[r] += query[r * m.head_size + i] * first;
                high[r] += query[r * m.head_size + i] * second;
            }
        }
        for (int r = 0; r < R; ++r) {
            store(scores.data() + (row + r) * width + key, low[r]);
            store(scores.data() + (row + r) * width + key + LANES, high[r]);
        }
    }

    // Scores to what probabilities are proportional to, and their sum; the query is number `self`
    // among the keys and sees none beyond.
    float soften(float* row, long self, long width) const {
        std::fill(row + self + 1, row + width, -INFINITY);
        if (window) std::fill(row, row + std::max(0L, self + 1 - window), -INFINITY);
        Vec best = load(row), sum = {};
        for (long at = LANES; at < width; at += LANES)
            best = load(row + at) > best ? load(row + at) : best;
        float most = best[0];
        for (int i = 1; i < LANES; ++i) most = std::max(most, best[i]);
        for (long at = 0; at < width; at += LANES) {
            Vec weight = exponential(load(row + at) - most);
            store(row + at, weight);
            sum += weight;
        }
        return sum_lanes(sum);
    }

    // mixed += weights x gathered values, for R queries.
    template <int R> void mix(long row, long width, long key, long count) {
        const float* weights = scores.data() + row * width + key;
        auto columns = [&](auto N, long at) {
            Vec sum[R * N];
            float* to = mixed.data() + row * padded + at;
            for (int r = 0; r < R; ++r)
                for (int c = 0; c < N; ++c) sum[r * N + c] = load(to + r * padded + c * LANES);
            for (long i = 0; i < count; ++i)
                for (int c = 0; c < N; ++c) {
                    Vec value = load(gathered.data() + i * padded + at + c * LANES);
                    for (int r = 0; r < R; ++r) sum[r * N + c] += weights[r * width + i] * value;
                }
            for (int r = 0; r < R; ++r)
                for (int c = 0; c < N; ++c) store(to + r * padded + c * LANES, sum[r * N + c]);
        };
        long at = 0;
        for (; at + 4 * LANES <= padded; at += 4 * LANES) columns(std::integral_constant<int, 4>{}, at);
        if (at + 2 * LANES <= padded) columns(std::integral_constant<int, 2>{}, at), at += 2 * LANES;
        for (; at < padded; at += LANES) columns(std::integral_constant<int, 1>{}, at);
    }
};
