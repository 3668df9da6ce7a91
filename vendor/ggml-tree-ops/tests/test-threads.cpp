// Checks of cpu/threads-cpu.cpp.
//
//   test-threads list     the checks
//   test-threads CHECK    runs one: "ok", or what is wrong and exit status 1
#include "../cpu/threads-cpu.cpp"

#include <functional>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <vector>

static void expect(bool ok, const std::string & what) {
    if (!ok) {
        throw std::runtime_error(what);
    }
}

// Threads meet again and again; each time one of them comes late, by up to some milliseconds: others spin, yield or sleep.
static void no_thread_passes_before_all_have_come() {
    constexpr int N = 4, ROUNDS = 3000;
    ggml_team *            team = ggml_team_new();
    std::atomic<int>       come[ROUNDS] = {};
    std::atomic<int>       early{0};
    std::vector<std::thread> threads;
    for (int t = 0; t < N; ++t) {
        threads.emplace_back([&, t] {
            for (int i = 0; i < ROUNDS; ++i) {
                if (i % N == t && i % 100 < 8) {
                    std::this_thread::sleep_for(std::chrono::microseconds(20 << (i % 8)));
                }
                come[i].fetch_add(1);
                ggml_team_barrier(team, N);
                early += come[i].load() != N;
            }
        });
    }
    for (std::thread & t : threads) {
        t.join();
    }
    ggml_team_free(team);
    expect(early == 0, std::to_string(early) + " times a thread passed before all had come");
}

static void the_longest_wait_is_reported() {
    ggml_team * team = ggml_team_new();
    std::thread late([&] {
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        ggml_team_barrier(team, 2);
        ggml_team_leave(team);
    });
    ggml_team_barrier(team, 2);
    ggml_team_leave(team);
    late.join();
    const int64_t longest = team->longest;
    ggml_team_free(team);
    expect(longest > 10*MILLISECOND, "a thread waited 20 ms, and " + std::to_string(longest) + " ns were reported");
}

// `graphs` graphs of 2 ms in a row, of which the share w(threads) is lost in waiting: the numbers of threads they had
static std::vector<int> run(advice & a, int graphs, const std::function<double(int)> & w) {
    std::vector<int> threads;
    for (int i = 0; i < graphs; ++i) {
        threads.push_back(a.threads());
        a.report(a.threads(), 2*MILLISECOND, (int64_t) (2*MILLISECOND*w(a.threads())));
    }
    return threads;
}

static void all_threads_compute_while_none_waits_long() {
    for (int wanted : {2, 3, 8, 64}) {
        advice a(wanted);
        for (int threads : run(a, 2000, [](int) { return 0.04; })) {
            expect(threads == wanted, std::to_string(threads) + " of " + std::to_string(wanted) + " threads without need");
        }
    }
}

// Another process that takes 3 ms of every 100 is no reason to give a thread up.
static void short_disturbances_change_nothing() {
    advice a(2);
    int    one = 0;
    for (int i = 0; i < 5000; ++i) {
        one += a.threads() == 1;
        a.report(a.threads(), i % 50 ? 2*MILLISECOND : 5*MILLISECOND, i % 50 ? 0 : 3*MILLISECOND);
    }
    expect(one == 0, std::to_string(one) + " of 5000 graphs had one thread");
}

// One of 8 processors is taken by others: with 8 threads the others wait for the one there, with 7 none does.
static void threads_that_cost_more_than_they_bring_are_left_out() {
    advice a(8);
    const auto threads = run(a, 2000, [](int n) { return n > 7 ? 0.5 : 0.02; });
    int        seven   = 0, fewer = 0;
    for (int n : threads) {
        seven += n == 7;
        fewer += n < 7;
    }
    expect(seven > 1900 && fewer == 0, std::to_string(seven) + " of 2000 graphs had 7 threads");

    advice two(2);
    int    one = 0;
    for (int n : run(two, 2000, [](int n) { return n > 1 ? 0.8 : 0.0; })) {
        one += n == 1;
    }
    expect(one > 1900, std::to_string(one) + " of 2000 graphs had one thread");
}

static void threads_come_back_when_processors_are_free_again() {
    advice a(2);
    run(a, 5000, [](int n) { return n > 1 ? 0.8 : 0.0; });
    const auto threads = run(a, 5000, [](int) { return 0.02; });
    expect(threads.back() == 2, "the second thread did not come back within 10 s of computing");
}

static void long_graphs_are_tried_seldom_too() {
    advice a(2);
    int    two = 0;
    for (int i = 0; i < 400; ++i) {
        two += a.threads() == 2;
        a.report(a.threads(), 300*MILLISECOND, a.threads() == 2 ? 240*MILLISECOND : 0);
    }
    expect(two <= 20, std::to_string(two) + " of 400 long graphs had two threads");
}

static const std::map<std::string, void (*)()> CHECKS = {
    {"all_threads_compute_while_none_waits_long", all_threads_compute_while_none_waits_long},
    {"long_graphs_are_tried_seldom_too", long_graphs_are_tried_seldom_too},
    {"no_thread_passes_before_all_have_come", no_thread_passes_before_all_have_come},
    {"short_disturbances_change_nothing", short_disturbances_change_nothing},
    {"the_longest_wait_is_reported", the_longest_wait_is_reported},
    {"threads_come_back_when_processors_are_free_again", threads_come_back_when_processors_are_free_again},
    {"threads_that_cost_more_than_they_bring_are_left_out", threads_that_cost_more_than_they_bring_are_left_out},
};

int main(int argc, char ** argv) {
    const std::string check = argc > 1 ? argv[1] : "list";
    if (check == "list") {
        for (const auto & c : CHECKS) {
            printf("%s\n", c.first.c_str());
        }
        return 0;
    }
    try {
        CHECKS.at(check)();
        puts("ok");
        return 0;
    } catch (const std::exception & e) {
        printf("%s\n", e.what());
        return 1;
    }
}
