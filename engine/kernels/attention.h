// Attention over the paged cache, block by block where it lies.
#pragma once
#include <vector>
#include "step.h"
#include "tile.h"

constexpr long KEYS = 32;  // keys that are gathered at once
constexpr long QUERIES = 48;  // that share them, about
constexpr long PAIR = 2 * LANES;  // components that are read at once, where they are bfloat16
constexpr int MIXED_ROWS = 6, MIXED_VECTORS = REGISTERS == 32 ? 4 : 2;  // sums in registers
constexpr int SCORED_ROWS = REGISTERS == 32 ? 8 : 6, SCORED_VECTORS = 2;

// Call use(std::integral_constant<int, R>, first) over rows up to `end`, R of them at once.
template <int R, typename Use> void by_rows(long end, Use use, long first) {
    for (; end - first >= R; first += R) use(std::integral_constant<int, R>{}, first);
    if constexpr (R > 1)
        if (first < end) by_rows<R - 1>(end, use, first);
}

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
        long tile = std::max(1L, QUERIES / group), number = 0, most = heads_for(team);
        for (long i = 0; i < step.num_spans; ++i)
            for (long first = 0; first < step.spans[i].count; first += tile) {
                long rows = std::min(tile, step.spans[i].count - first) * group;
                long heads = std::max(1L, std::min(most, QUERIES / rows));
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
                by_rows<SCORED_ROWS>(
                    (head + 1) * of_head, [&](auto R, long row) { score<R>(row, width, key); },
                    head * of_head);
            }
        for (long row = 0; row < rows; ++row) {
            long self = start + row % of_head / group - task.begin;
            sums[row] = soften(scores.data() + row * width, self, width);
        }
        for (long key = 0; key < width; key += KEYS)
            for (long head = 0; head < task.heads; ++head) {
                long count = gather_values(task, head, task.begin + key);
                by_rows<MIXED_ROWS>(
                    (head + 1) * of_head,
                    [&](auto R, long row) { mix<R>(row, width, key, count); }, head * of_head);
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
        for (long some = 0; some < KEYS; some += LANES) {
            long at = 0;
            if constexpr (sizeof(C) == 2)
                for (; at + PAIR <= m.head_size; at += PAIR) gather_pairs(keys + some, at, some);
            for (; at < m.head_size; at += LANES) {
                Vec square[LANES];
                for (long i = 0; i < LANES; ++i)
                    square[i] = keys[some + i] ? load_upto(keys[some + i] + at, m.head_size - at) : Vec{};
                transpose(square);
                for (long i = 0; i < LANES; ++i)
                    store(gathered.data() + (at + i) * KEYS + some, square[i]);
            }
        }
    }

    // Components [at, at + PAIR) of a vector's worth of keys, two of them moving as one number.
    void gather_pairs(const C* const* keys, long at, long some) {
        Vec square[LANES];
        for (long i = 0; i < LANES; ++i) square[i] = keys[i] ? (Vec)load_pairs(keys[i] + at) : Vec{};
        transpose(square);
        for (long i = 0; i < LANES; ++i) {
            float* to = gathered.data() + (at + 2 * i) * KEYS + some;
            store(to, first_of((Bits)square[i]));
            store(to + KEYS, second_of((Bits)square[i]));
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
        const float* query = queries.data() + row * m.head_size;
        for (long some = 0; some < KEYS; some += SCORED_VECTORS * LANES) {
            Vec sums[R * SCORED_VECTORS] = {};
            for (long i = 0; i < m.head_size; ++i) {
                Vec columns[SCORED_VECTORS];
                for (int v = 0; v < SCORED_VECTORS; ++v)
                    columns[v] = load(gathered.data() + i * KEYS + some + v * LANES);
                for (int r = 0; r < R; ++r)
                    for (int v = 0; v < SCORED_VECTORS; ++v)
                        sums[r * SCORED_VECTORS + v] += query[r * m.head_size + i] * columns[v];
            }
            for (int r = 0; r < R; ++r)
                for (int v = 0; v < SCORED_VECTORS; ++v)
                    store(scores.data() + (row + r) * width + key + some + v * LANES,
                          sums[r * SCORED_VECTORS + v]);
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
        constexpr long most = MIXED_VECTORS * LANES;
        for (; at + most <= padded; at += most)
            columns(std::integral_constant<int, MIXED_VECTORS>{}, at);
        for (; at < padded; at += LANES) columns(std::integral_constant<int, 1>{}, at);
    }
};
