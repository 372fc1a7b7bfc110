// Vectors and products of the kernels against plain loops: for CPUs that tests only emulate.
// Prints what differs and fails, or says nothing.
#include <cstdio>
#include <cstdlib>
#include <vector>
#include "products.h"

static float random_number() { return float(rand()) / RAND_MAX - 0.5f; }

static void put(float value, std::vector<float>& to, long at) { to[at] = value; }
static void put(float value, std::vector<bf16>& to, long at) { narrow(value, &to[at]); }

// A weight of any size: whole panels where they lie, and the rest in a last one.
template <typename W> struct Weight {
    long inputs, outputs, whole = outputs / PANEL * PANEL;
    std::vector<W> plain, panels, tail;

    Weight(long inputs, long outputs) : inputs(inputs), outputs(outputs) {
        plain.resize(inputs * outputs);
        for (long i = 0; i < inputs * outputs; ++i) put(random_number(), plain, i);
        panels = plain;
        tail.resize(PANEL * inputs);
        std::copy(plain.begin() + whole * inputs, plain.end(), tail.begin());
        long count = inputs * long(sizeof(W)) / 4;
        std::vector<float> spare(PANEL * count);
        turn_weight((float*)panels.data(), whole / PANEL, count, spare.data(), {0, 1});
        turn_weight((float*)tail.data(), 1, count, spare.data(), {0, 1});
    }

    Linear linear() const { return {panels.data(), tail.data(), nullptr, inputs, outputs}; }
};

template <typename W> int check(long inputs, long outputs, long rows) {
    Weight<W> weight(inputs, outputs);
    std::vector<float> x(rows * inputs), y(rows * outputs), packed(packed_size(rows, inputs));
    for (auto& value : x) value = random_number();
    Model model{};
    model.is_bf16 = sizeof(W) == 2;
    multiply_rows<W>(model, weight.linear(), x.data(), rows, packed.data(), y.data(), false, {0, 1});
    for (long row = 0; row < rows; ++row)
        for (long output = 0; output < outputs; ++output) {
            double expected = 0;
            for (long i = 0; i < inputs; ++i)
                expected += double(x[row * inputs + i]) * widened(weight.plain[output * inputs + i]);
            double found = y[row * outputs + output];
            if (std::abs(found - expected) <= 1e-4) continue;
            printf("%ld x %ld, row %ld of %ld, output %ld: %g, expected %g\n", inputs, outputs, row,
                   rows, output, found, expected);
            return 1;
        }
    return 0;
}

static int check_vectors() {
    Vec square[LANES], sequence;
    for (long i = 0; i < LANES; ++i)
        for (long j = 0; j < LANES; ++j) square[i][j] = float(i * LANES + j);
    transpose(square);
    int wrong = 0;
    for (long i = 0; i < LANES; ++i)
        for (long j = 0; j < LANES; ++j) wrong += square[i][j] != float(j * LANES + i);
    for (long i = 0; i < LANES; ++i) sequence[i] = float(i);
    wrong += sum_lanes(sequence) != float(LANES * (LANES - 1) / 2);
    Vec powers = exponential(sequence - 2.0f);
    for (long i = 0; i < LANES; ++i)
        wrong += std::abs(powers[i] / std::exp(float(i) - 2.0f) - 1) > 1e-6;
    if (wrong) printf("%d lanes are wrong\n", wrong);
    return wrong;
}

int main() {
    int wrong = check_vectors();
    for (long rows : {1, 2, 3, 5, 6, 7, 20})
        for (long outputs : {5, 77})
            for (long inputs : {2, 50, 520}) {
                wrong += check<float>(inputs, outputs, rows);
                wrong += check<bf16>(inputs, outputs, rows);
            }
    wrong += check<float>(16, 21, 370) + check<bf16>(16, 21, 370);
    return wrong ? 1 : 0;
}
