// Exits with 0 where AMX works: asks the kernel for the tile registers, then uses one.
#include <immintrin.h>

#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#define ARCH_REQ_XCOMP_PERM 0x1023
#define XFEATURE_XTILEDATA 18
static int allowed(void) { return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0; }
#else
static int allowed(void) { return 1; }
#endif

int main(void) {
    // one tile of 16 rows of 64 bytes; see "TILECFG" in Intel's manual
    struct { unsigned char palette, start_row, reserved[14]; unsigned short colsb[16]; unsigned char rows[16]; }
        __attribute__((packed)) config = { .palette = 1, .colsb = { 64 }, .rows = { 16 } };
    static int out[16 * 16] = { 1 };
    if (!allowed()) {
        return 1;
    }
    _tile_loadconfig(&config);
    _tile_zero(0);
    _tile_stored(0, out, 64);
    _tile_release();
    return out[0];
}
