#define FEW_ROWS_INSTANCE GGML_TYPE_IQ4_XS
#include "../few-rows-launch.cuh"
