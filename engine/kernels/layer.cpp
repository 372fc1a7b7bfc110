// Decoder layers as one call: norm, attention, norm, feed-forward, each row for itself.
#include "attention.h"
#include "products.h"

struct Layer {
    const void *input_norm, *query_norm, *key_norm, *post_attention_norm;
    Linear qkv, output, gate_up, down;
    long window;
};

template <typename W>
void normalize(const float* from, const void* weight, long size, float eps, float* to) {
    Vec squares = {};
    long whole = size / LANES * LANES;
    for (long at = 0; at < whole; at += LANES) squares += load(from + at) * load(from + at);
    Vec rest = load_part(from + whole, size - whole);
    float scale = 1.0f / std::sqrt(sum_lanes(squares + rest * rest) / size + eps);
    for (long at = 0; at < size; ++at) to[at] = from[at] * scale * widened(((const W*)weight)[at]);
}

template <typename W>
void normalize_rows(const Model& m, const Step& step, const void* weight, float* to, Team team) {
    for (long row = team.begin(step.rows); row < team.end(step.rows); ++row)
        normalize<W>(step.hidden + row * m.hidden, weight, m.hidden, m.eps, to + row * m.hidden);
    team.wait();
}

// Component i of a head turns with component i + head_size / 2.
inline void rotate(float* head, const float* cosines, const float* sines, long half) {
    for (long i = 0; i < half; ++i) {
        float first = head[i], second = head[half + i];
        head[i] = first * cosines[i] - second * sines[i];
        head[half + i] = second * cosines[i] + first * sines[i];
    }
}

// Norm and rotation of one head of a token; a key or a value goes to its place in the cache.
template <typename W, typename C>
void place_head(const Model& m, const Layer& layer, const Cache& cache, const Step& step,
                long number, const Span& span, long token, long head) {
    long size = m.head_size, row = span.row + token, key = head - m.heads;
    float* at = step.wide + (row * (m.heads + 2 * m.kv_heads) + head) * size;
    bool is_value = key >= m.kv_heads;
    if (!is_value) {
        auto norm = head < m.heads ? layer.query_norm : layer.key_norm;
        if (norm) normalize<W>(at, norm, size, m.eps, at);
        long turn = (step.by_position ? span.start + token : row) * size / 2;
        rotate(at, step.cosines + turn, step.sines + turn, size / 2);
    }
    if (head < m.heads) return;
    C* to = slots<C>(m, cache, number, step.blocks + span.blocks, span.start + token, is_value,
                     is_value ? key - m.kv_heads : key);
    for (long i = 0; i < size; ++i) narrow(at[i], to + i);
}

template <typename W, typename C>
void place_heads(const Model& m, const Layer& layer, const Cache& cache, const Step& step,
                 long number, Team team) {
    for (long i = 0; i < step.num_spans; ++i)
        for (long token = 0; token < step.spans[i].count; ++token)
            for (long head = team.rank; head < m.heads + 2 * m.kv_heads; head += team.size)
                place_head<W, C>(m, layer, cache, step, number, step.spans[i], token, head);
    team.wait();
}

// silu(gate) * up, from rows [gate, up] of `wide` to rows behind them.
float* gated(const Model& m, const Step& step) { return step.wide + step.rows * 2 * m.inner; }

void gate(const Model& m, const Step& step, Team team) {
    constexpr long SLICE = 256;
    long slices = ceil_div(m.inner, SLICE), count = step.rows * slices;
    for (long i = team.begin(count); i < team.end(count); ++i) {
        long row = i / slices, first = i % slices * SLICE, end = std::min(first + SLICE, m.inner);
        const float *gates = step.wide + row * 2 * m.inner, *ups = gates + m.inner;
        float* to = gated(m, step) + row * m.inner;
        for (long at = first; at < end; at += LANES) {
            Vec gate = load_upto(gates + at, end - at), up = load_upto(ups + at, end - at);
            store_upto(to + at, gate / (1.0f + exponential(-gate)) * up, end - at);
        }
    }
    team.wait();
}

// What follows when queries are in `wide`, and all keys and values that they see in the cache.
template <typename W, typename C>
void complete_layer(const Model& m, const Layer& layer, const Cache& cache, const Step& step,
                    long number, Team team) {
    Attention<C>{m, cache, step, number, layer.window}.run(team);
    team.wait();
    multiply<W>(m, layer.output, step.narrow, step, step.hidden, true, team);
    normalize_rows<W>(m, step, layer.post_attention_norm, step.narrow, team);
    multiply<W>(m, layer.gate_up, step.narrow, step, step.wide, false, team);
    gate(m, step, team);
    multiply<W>(m, layer.down, gated(m, step), step, step.hidden, true, team);
}

// Queries to `wide`, keys and values to the cache.
template <typename W, typename C>
void begin_layer(const Model& m, const Layer& layer, const Cache& cache, const Step& step,
                 long number, Team team) {
    normalize_rows<W>(m, step, layer.input_norm, step.narrow, team);
    multiply<W>(m, layer.qkv, step.narrow, step, step.wide, false, team);
    place_heads<W, C>(m, layer, cache, step, number, team);
}

// Call use(W{}, C{}) with the weights' type and the cache's.
template <typename Use> void with_types(const Model& m, const Cache& cache, Use use) {
    auto choose = [&](auto W) { cache.is_bf16 ? use(W, bf16{}) : use(W, float{}); };
    m.is_bf16 ? choose(bf16{}) : choose(float{});
}

extern "C" {

// Layers [begin, end) of all rows.
void tandem_layers(const Model* m, const Layer* layers, const Cache* cache, const Step* step,
                   long begin, long end) {
    with_types(*m, *cache, [&](auto W, auto C) {
        with_team(step->num_threads, [&](Team team) {
            for (long i = begin; i < end; ++i) {
                begin_layer<decltype(W), decltype(C)>(*m, layers[i], *cache, *step, i, team);
                complete_layer<decltype(W), decltype(C)>(*m, layers[i], *cache, *step, i, team);
            }
        });
    });
}

// Of one layer what all rows need, and what is left of it for those that are sampled from.
void tandem_begin_layer(const Model* m, const Layer* layer, const Cache* cache, const Step* step,
                        long number) {
    with_types(*m, *cache, [&](auto W, auto C) {
        with_team(step->num_threads, [&](Team team) {
            begin_layer<decltype(W), decltype(C)>(*m, *layer, *cache, *step, number, team);
        });
    });
}

void tandem_complete_layer(const Model* m, const Layer* layer, const Cache* cache,
                           const Step* step, long number) {
    with_types(*m, *cache, [&](auto W, auto C) {
        with_team(step->num_threads, [&](Team team) {
            complete_layer<decltype(W), decltype(C)>(*m, *layer, *cache, *step, number, team);
        });
    });
}

void tandem_normalize(const Model* m, const void* weight, const Step* step, float* to) {
    auto run = m->is_bf16 ? normalize_rows<bf16> : normalize_rows<float>;
    with_team(step->num_threads, [&](Team team) { run(*m, *step, weight, to, team); });
}

void tandem_linear(const Model* m, const Linear* linear, const float* x, long rows, float* packed,
                   float* y, long num_threads) {
    auto run = m->is_bf16 ? multiply_rows<bf16> : multiply_rows<float>;
    with_team(num_threads, [&](Team team) {
        run(*m, *linear, x, rows, packed, y, false, team);
    });
}

// Rows of weights, `count` numbers of four bytes each, become panels where they lie.
void tandem_turn(float* rows, long num_panels, long count, float* spare, long num_threads) {
    with_team(num_threads, [&](Team team) { turn_weight(rows, num_panels, count, spare, team); });
}

// Outputs' weights as floats, [num_outputs, inputs].
void tandem_read(const Linear* linear, long is_bf16, const int64_t* outputs, long num_outputs,
                 float* to) {
    auto read = is_bf16 ? read_output<bf16> : read_output<float>;
    for (long i = 0; i < num_outputs; ++i) read(*linear, outputs[i], to + i * linear->inputs);
}

long tandem_packed_size(long rows, long inputs) { return packed_size(rows, inputs); }

// Whether products of bfloat16 may be made as such.
long tandem_can_narrow() { return can_narrow(); }
}
