// The buffer type CPU_ROWS: weights of matrix products, interleaved as form.h says. ggml-cpu.cpp lists it among the CPU's
// extra buffer types, before CPU_REPACK.
#pragma once

#include "ggml-backend.h"

#ifdef __cplusplus
extern "C" {
#endif

// Null where this build has no kernels, with GGML_CPU_ROWS=0 in the environment, and on ARM without GGML_CPU_ROWS=1.
ggml_backend_buffer_type_t ggml_backend_cpu_rows_buffer_type(void);

#ifdef __cplusplus
}
#endif
