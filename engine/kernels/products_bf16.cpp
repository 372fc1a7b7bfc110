// Products of bfloat16 weights: the templates of a translation unit of their own.
#include "products.h"

template void multiply_rows<bf16>(const Model&, const Linear&, const float*, long, float*, float*,
                                  bool, Team);
