#include "kernels.h"

#include "isa.h"

namespace rows {

const kernel * kernel_of(ggml_type type) {
    if (const kernel * k = kernel_of_blocks(type)) {
        return k;
    }
    if (const kernel * k = kernel_of_super_blocks(type)) {
        return k;
    }
    return kernel_of_floats(type);
}

const char * instruction_set() {
#ifdef ROWS_SIMD
    return isa::NAME;
#else
    return "none";
#endif
}

} // namespace rows
