// operator new that can be told to fail: loaded before the other libraries (LD_PRELOAD) by test_out_of_memory.py.
#include <cstdlib>
#include <new>

static thread_local long left = -1; // allocations of this thread until one fails; < 0: none does
static thread_local long seen = 0;

extern "C" void fail_at(long n) { left = n; seen = 0; }
extern "C" long allocations(void) { return seen; }

static void * get(std::size_t size) {
    seen += 1;
    if (left >= 0 && left-- == 0) {
        return nullptr;
    }
    return std::malloc(size ? size : 1);
}

static void * get_or_throw(std::size_t size) {
    if (void * memory = get(size)) {
        return memory;
    }
    throw std::bad_alloc();
}

void * operator new(std::size_t size) { return get_or_throw(size); }
void * operator new[](std::size_t size) { return get_or_throw(size); }
void * operator new(std::size_t size, const std::nothrow_t &) noexcept { return get(size); }
void * operator new[](std::size_t size, const std::nothrow_t &) noexcept { return get(size); }
void operator delete(void * memory) noexcept { std::free(memory); }
void operator delete[](void * memory) noexcept { std::free(memory); }
void operator delete(void * memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void * memory, std::size_t) noexcept { std::free(memory); }
