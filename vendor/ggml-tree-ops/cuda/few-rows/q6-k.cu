#define FEW_ROWS_INSTANCE GGML_TYPE_Q6_K
#include "../few-rows-launch.cuh"
