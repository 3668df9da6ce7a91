#define FEW_ROWS_INSTANCE GGML_TYPE_Q4_K
#include "../few-rows-launch.cuh"
