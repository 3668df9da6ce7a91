#include "threads-cpu.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <thread>

#if defined(__x86_64__) || defined(_M_X64) || defined(__i386__)
#    include <immintrin.h>
#endif

namespace {

constexpr int64_t MICROSECOND = 1000, MILLISECOND = 1000*MICROSECOND;

constexpr int     SPINS    = 300;             // before a clock is read: most waits end here
constexpr int64_t SHORT    = 30*MICROSECOND;  // waits up to here are part of any graph, and are not counted
constexpr int64_t SLEEPING = 500*MICROSECOND; // after this a thread sleeps: to be woken costs some tens of microseconds

thread_local int64_t waited = 0; // by this thread in this graph, in waits that were not short

void relax() {
#if defined(__x86_64__) || defined(_M_X64) || defined(__i386__)
    _mm_pause();
#elif defined(__aarch64__) && defined(__GNUC__)
    __asm__ volatile("yield" ::: "memory");
#endif
}

} // namespace

struct ggml_team {
    alignas(64) std::atomic<int> arrived{0};
    alignas(64) std::atomic<uint32_t> passed{0};
    alignas(64) std::atomic<int> sleepers{0};
    std::atomic<int64_t>    longest{0};
    std::mutex              mutex;
    std::condition_variable woken;

    void barrier(int n_threads) {
        const uint32_t before = passed.load(std::memory_order_relaxed);
        if (arrived.fetch_add(1, std::memory_order_acq_rel) == n_threads - 1) {
            arrived.store(0, std::memory_order_relaxed);
            passed.store(before + 1, std::memory_order_seq_cst);
            if (sleepers.load(std::memory_order_seq_cst) > 0) {
                std::lock_guard<std::mutex> lock(mutex);
                woken.notify_all();
            }
            return;
        }
        for (int i = 0; i < SPINS; ++i) {
            if (is_past(before)) {
                return;
            }
            relax();
        }
        wait_longer(before);
    }

private:
    bool is_past(uint32_t before) const { return passed.load(std::memory_order_acquire) != before; }

    void wait_longer(uint32_t before) {
        const int64_t start = ggml_threads_clock();
        int64_t       now   = start;
        while (!is_past(before) && now - start < SLEEPING) {
            if (now - start < SHORT) {
                relax();
            } else {
                std::this_thread::yield();
            }
            now = ggml_threads_clock();
        }
        if (!is_past(before)) {
            sleep(before);
        }
        now = ggml_threads_clock();
        if (now - start > SHORT) {
            waited += now - start;
        }
    }

    void sleep(uint32_t before) {
        std::unique_lock<std::mutex> lock(mutex);
        sleepers.fetch_add(1, std::memory_order_seq_cst);
        woken.wait(lock, [&] { return passed.load(std::memory_order_seq_cst) != before; });
        sleepers.fetch_sub(1, std::memory_order_relaxed);
    }
};

namespace {

// For callers that want a certain number of threads: how many they get.
class advice {
public:
    explicit advice(int wanted = 1) : wanted(wanted), now(wanted) {}

    int threads() const { return now; }

    void report(int used, int64_t nanoseconds, int64_t longest_wait) {
        since += nanoseconds;
        if (used == now && used > 1) {
            elapsed += nanoseconds;
            lost += longest_wait;
            if (elapsed >= (trial ? TRIAL : WINDOW)) {
                judge();
            }
        }
        if (now < wanted && since >= patience) {
            change(now + 1);
            trial = true;
        }
    }

private:
    // With a share w of the time lost, the work is that of now*(1 - w) threads: one thread less that loses nothing is no slower
    // if this is no more than now - 1.
    void judge() {
        const double w = (double) lost/(double) elapsed;
        if (w > MARGIN + 0.9/now) {
            patience = trial ? std::max(std::min(2*patience, LONGEST), 20*elapsed) : SHORTEST; // trials cost 5 % at most
            change(now - 1);
        } else if (trial) {
            patience = SHORTEST;
        }
        trial   = false;
        elapsed = lost = 0;
    }

    void change(int threads) {
        now   = threads;
        since = elapsed = lost = 0;
    }

    // The window is long enough for a short disturbance to be no reason to change anything.
    static constexpr int64_t WINDOW = 50*MILLISECOND, TRIAL = 10*MILLISECOND, SHORTEST = 100*MILLISECOND, LONGEST = 5000*MILLISECOND;
    static constexpr double  MARGIN = 0.05;

    int     wanted, now;
    bool    trial    = false;                // `now` was raised and not judged yet
    int64_t elapsed  = 0, lost = 0, since = 0; // in this window, in this window, since the last change
    int64_t patience = SHORTEST;             // until one more thread is tried
};

std::mutex              advice_mutex;
std::map<int, advice> & all_advice() {
    static std::map<int, advice> all;
    return all;
}

advice & advice_for(int wanted) { return all_advice().try_emplace(wanted, wanted).first->second; }

bool always_all() {
    static const bool all = [] {
        const char * value = getenv("GGML_CPU_ALL_THREADS");
        return value && strcmp(value, "1") == 0;
    }();
    return all;
}

} // namespace

ggml_team * ggml_team_new(void) { return new ggml_team; }
void        ggml_team_free(ggml_team * team) { delete team; }
void        ggml_team_barrier(ggml_team * team, int n_threads) { team->barrier(n_threads); }

void ggml_team_leave(ggml_team * team) {
    int64_t longest = team->longest.load(std::memory_order_relaxed);
    while (waited > longest && !team->longest.compare_exchange_weak(longest, waited, std::memory_order_relaxed)) {
    }
    waited = 0;
}

int64_t ggml_threads_clock(void) {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

int ggml_threads_for_graph(int wanted) {
    if (wanted == 1 || always_all()) {
        return wanted;
    }
    std::lock_guard<std::mutex> lock(advice_mutex);
    return advice_for(wanted).threads();
}

void ggml_threads_report(ggml_team * team, int wanted, int used, int64_t nanoseconds) {
    const int64_t longest = team->longest.exchange(0, std::memory_order_relaxed);
    if (wanted == 1) {
        return;
    }
    std::lock_guard<std::mutex> lock(advice_mutex);
    advice_for(wanted).report(used, nanoseconds, longest);
}
