#define FEW_ROWS_INSTANCE GGML_TYPE_Q5_K
#include "../few-rows-launch.cuh"
