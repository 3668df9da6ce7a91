// How the threads of a graph wait for each other, and how many of them are worth their waiting.
//
// A thread that waits spins for a short while, then lets others run, and at last sleeps. Beside other busy processes a thread
// that the system has set aside holds up all others at every operation: the time that is lost in that way is measured, and
// while it is more than a thread brings, graphs are computed by fewer threads. No result depends on their number.
#pragma once

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct ggml_team;

struct ggml_team * ggml_team_new(void);
void               ggml_team_free(struct ggml_team * team);

// Returns when n_threads threads have called it.
void ggml_team_barrier(struct ggml_team * team, int n_threads);

// Called by every thread after its last barrier of a graph: the team keeps the longest time that one of them has waited.
void ggml_team_leave(struct ggml_team * team);

// How many of the threads that the caller wants are worth it now: 1 to `wanted`. With GGML_CPU_ALL_THREADS=1 in the
// environment, always all.
int ggml_threads_for_graph(int wanted);

// After a graph that took `nanoseconds` on `used` of `wanted` threads.
void ggml_threads_report(struct ggml_team * team, int wanted, int used, int64_t nanoseconds);

int64_t ggml_threads_clock(void); // nanoseconds

#ifdef __cplusplus
}
#endif
