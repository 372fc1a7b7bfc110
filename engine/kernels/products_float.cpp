// Products of float weights: the templates of a translation unit of their own.
#include "products.h"

template void multiply_rows<float>(const Model&, const Linear&, const float*, long, float*, float*,
                                   bool, Team);
