#include "buffer.h"

#include "kernels.h"
#include "product.h"

#include "ggml-backend-impl.h"
#include "ggml-cpu.h"
#include "traits.h"

#include <cstdlib>
#include <cstring>

#if defined(__linux__)
#    include <sys/mman.h>
#endif

namespace rows {

namespace {

bool is_here(const ggml_tensor * tensor) {
    return tensor->buffer && tensor->buffer->buft == ggml_backend_cpu_rows_buffer_type();
}

class traits : public ggml::cpu::tensor_traits {
    bool work_size(int, const ggml_tensor * op, size_t & size) override {
        size = rows::work_size(op);
        return true;
    }

    bool compute_forward(ggml_compute_params * params, ggml_tensor * op) override {
        compute(params, op);
        return true;
    }
};

class buffer_type : public ggml::cpu::extra_buffer_type {
    bool supports_op(ggml_backend_dev_t, const ggml_tensor * op) override {
        const bool product = op->op == GGML_OP_MUL_MAT || op->op == GGML_OP_MUL_MAT_ID;
        if (!product || !is_here(op->src[0]) || !can_compute(op)) {
            return false;
        }
        for (const ggml_tensor * src : {op->src[1], op->src[2]}) {
            if (src && src->buffer && !ggml_backend_buft_is_host(src->buffer->buft)) {
                return false;
            }
        }
        return true;
    }

    ggml::cpu::tensor_traits * get_tensor_traits(const ggml_tensor * op) override {
        static traits only;
        const bool    product = op->op == GGML_OP_MUL_MAT || op->op == GGML_OP_MUL_MAT_ID;
        return product && is_here(op->src[0]) ? &only : nullptr;
    }
};

void set_tensor(ggml_backend_buffer_t, ggml_tensor * tensor, const void * data, size_t offset, size_t size) {
    set(tensor, data, offset, size);
}

void get_tensor(ggml_backend_buffer_t, const ggml_tensor * tensor, void * data, size_t offset, size_t size) {
    get(tensor, data, offset, size);
}

// Weights are read from end to end: with large pages no time goes into finding pages.
void ask_for_large_pages(void * memory, size_t size) {
#if defined(__linux__)
    constexpr uintptr_t PAGE = 2u << 20;
    const uintptr_t     from = GGML_PAD((uintptr_t) memory, PAGE), to = ((uintptr_t) memory + size)/PAGE*PAGE;
    if (from < to) {
        madvise((void *) from, to - from, MADV_HUGEPAGE); // a wish: it is no matter if it fails
    }
#else
    (void) memory, (void) size;
#endif
}

ggml_backend_buffer_t alloc_buffer(ggml_backend_buffer_type_t type, size_t size) {
    ggml_backend_buffer_t buffer = ggml_backend_buft_alloc_buffer(ggml_backend_cpu_buffer_type(), size);
    if (buffer) {
        ask_for_large_pages(ggml_backend_buffer_get_base(buffer), size);
        buffer->buft             = type;
        buffer->iface.set_tensor = set_tensor;
        buffer->iface.get_tensor = get_tensor;
        buffer->iface.cpy_tensor = nullptr;
    }
    return buffer;
}

const char * name(ggml_backend_buffer_type_t) { return "CPU_ROWS"; }
size_t       alignment(ggml_backend_buffer_type_t) { return 64; }
size_t       alloc_size(ggml_backend_buffer_type_t, const ggml_tensor * tensor) {
    return can_hold(tensor) ? bytes(tensor) : ggml_nbytes(tensor);
}

// On ARM nobody has measured yet whether prompts are as fast as with upstream's own forms: there it takes GGML_CPU_ROWS=1.
bool switched_off() {
    const char * value = getenv("GGML_CPU_ROWS");
#if defined(__aarch64__)
    return !value || strcmp(value, "1") != 0;
#else
    return value && strcmp(value, "0") == 0;
#endif
}

} // namespace

} // namespace rows

ggml_backend_buffer_type_t ggml_backend_cpu_rows_buffer_type(void) {
    static const bool               there = rows::kernel_of(GGML_TYPE_Q8_0) && !rows::switched_off();
    static ggml_backend_buffer_type type  = {
        /* .iface   = */ {rows::name, rows::alloc_buffer, rows::alignment, nullptr, rows::alloc_size, nullptr},
        /* .device  = */ ggml_backend_reg_dev_get(ggml_backend_cpu_reg(), 0),
        /* .context = */ new rows::buffer_type(),
    };
    return there ? &type : nullptr;
}
