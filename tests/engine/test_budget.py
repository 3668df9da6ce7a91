"""The automatic budget against simulated costs: it has no clock of its own, so seconds are what the simulation says."""

from __future__ import annotations

import pytest

# reads: rounds seconds_of_one seconds_per_node draft_seconds seconds_per_position p_first p_second fixed_nodes (-1: auto)
#   noisy on_device
# writes: tokens seconds rounds_with_a_draft fewest_positions_drafted, then the numbers of nodes that were verified
PROGRAM = r"""
#include "budget.h"
#include <algorithm>
#include <cstdio>
#include <random>
#include <set>

static position_candidates two_candidates(double first, double second) {
    return { { 1, 2 }, { (float) std::log(first), (float) std::log(second) } };
}

int main() {
    int rounds, fixed, noisy, on_device;
    double one, per_node, draft, per_position, first, second;
    while (scanf("%d %lf %lf %lf %lf %lf %lf %d %d %d",
            &rounds, &one, &per_node, &draft, &per_position, &first, &second, &fixed, &noisy, &on_device) == 10) {
        std::mt19937 rng(1);
        std::uniform_real_distribution<double> uniform(0, 1);
        std::set<int> warm;
        // a clock as it is: some jitter, a hiccup now and then, and the first forward of a size allocates
        const auto measured = [&](double seconds, int size) {
            const double hiccup = uniform(rng) < 0.03 ? 2.5 : 1.0;
            return seconds*(0.95 + 0.1*uniform(rng))*(noisy && warm.insert(size).second ? 1.5 : 1.0)*(noisy ? hiccup : 1.0);
        };
        auto_budget budget(on_device);
        running_mean draft_mean(0.2);
        std::set<int> sizes;
        int fewest = 15;
        long tokens = 0, drafted = 0;
        double seconds = 0;
        for (int r = 0; r < rounds; ++r) {
            const bool wanted = fixed < 0 ? budget.wants_draft() : true;
            const int  n_positions = fixed < 0 ? budget.positions(15) : std::min(fixed, 15);
            const std::vector<position_candidates> positions(wanted ? n_positions : 0, two_candidates(first, second));
            draft_tree tree = build_tree(0, positions, fixed < 0 ? 63 : fixed, false);
            const double draft_seconds = wanted ? measured(draft + per_position*n_positions, -1) : 0;
            if (wanted && fixed < 0) {
                draft_mean.add_seconds(draft_seconds);
                tree.truncate(budget.choose({ &tree }, draft_mean.get()));
            }
            int node = 0, sampled = 0;
            while (node >= 0) {
                sampled += 1;
                const double u = uniform(rng);
                node = tree.child(node, u < first ? 1 : u < first + second ? 2 : 3);
            }
            const double verify = measured(one + per_node*(tree.n_nodes() - 1), tree.n_nodes());
            const double total  = draft_seconds + verify;
            if (wanted) {
                budget.record_draft({ &tree }, sampled, draft_mean.get(), verify, total);
            } else {
                budget.record_plain(1, verify, total);
            }
            tokens  += sampled;
            seconds += total;
            drafted += wanted;
            fewest = wanted ? std::min(fewest, n_positions) : fewest;
            sizes.insert(tree.n_nodes());
        }
        printf("%ld %.9g %ld %d", tokens, seconds, drafted, fewest);
        for (const int size : sizes) {
            printf(" %d", size);
        }
        printf("\n");
        fflush(stdout);
    }
}
"""


@pytest.fixture(scope="module")
def simulate(compile_program):
    process = compile_program("#include <cmath>\n" + PROGRAM, "budget.cpp", "tree/best-nodes.cpp", "tree/draft-tree.cpp")

    def run(one, per_node, draft, first, second, nodes=-1, rounds=600, noisy=False, per_position=0.0, on_device=False):
        process.stdin.write(
            f"{rounds} {one} {per_node} {draft} {per_position} {first} {second} {nodes} {int(noisy)} {int(on_device)}\n"
        )
        process.stdin.flush()
        tokens, seconds, drafted, run.fewest, *run.sizes = process.stdout.readline().split()
        return int(tokens) * one / float(seconds), int(drafted)  # speed in units of plain decoding

    return run


COSTS = [(10e-3, 0.05e-3, 1e-3), (10e-3, 1e-3, 3e-3), (10e-3, 2e-3, 4e-3), (5e-3, 3e-3, 2e-3)]
DRAFTERS = [(0.9, 0.05), (0.75, 0.15), (0.5, 0.2)]


@pytest.mark.parametrize("noisy", [False, True], ids=["steady", "noisy"])
@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("drafter", DRAFTERS)
def test_auto_is_nearly_as_fast_as_the_best_fixed_budget(simulate, cost, drafter, noisy):
    sizes = (1, 2, 3, 5, 7, 11, 15, 23, 31, 47, 63)
    best = max(simulate(*cost, *drafter, nodes=n, noisy=noisy)[0] for n in sizes)
    plain, _ = simulate(cost[0], 0, 0, *drafter, nodes=0, noisy=noisy)
    speed, _ = simulate(*cost, *drafter, noisy=noisy)
    assert speed > 0.92 * max(best, plain)


@pytest.mark.parametrize("noisy", [False, True], ids=["steady", "noisy"])
def test_a_first_short_generation_already_gains(simulate, noisy):
    best = simulate(10e-3, 1.2e-3, 4e-3, 0.8, 0.1, nodes=5, rounds=40, noisy=noisy)[0]
    assert best > 1.4
    assert simulate(10e-3, 1.2e-3, 4e-3, 0.8, 0.1, rounds=40, noisy=noisy)[0] > 0.8 * best


def test_it_decodes_plainly_where_speculation_cannot_win(simulate):
    speed, drafted = simulate(10e-3, 9e-3, 5e-3, 0.3, 0.1)
    assert speed > 0.97
    assert drafted < 40


def test_a_short_generation_with_a_useless_drafter_loses_little(simulate):
    speed, _ = simulate(10e-3, 5e-3, 3e-3, 0.05, 0.02, rounds=128)
    assert speed > 0.97


def test_it_uses_large_trees_where_nodes_are_cheap(simulate):
    cheap, _ = simulate(10e-3, 0.01e-3, 1e-3, 0.6, 0.3)
    assert cheap > 0.93 * simulate(10e-3, 0.01e-3, 1e-3, 0.6, 0.3, nodes=63)[0]
    assert cheap > 1.05 * simulate(10e-3, 0.01e-3, 1e-3, 0.6, 0.3, nodes=7)[0]


@pytest.mark.parametrize("per_position", [0.2e-3, 0.5e-3])
def test_it_drafts_no_deeper_than_its_trees_where_positions_cost(simulate, per_position):
    cost = (6e-3, 1e-3, 1.5e-3, 0.76, 0.1)
    best = max(simulate(*cost, nodes=n, per_position=per_position)[0] for n in (1, 2, 3, 4, 5, 7, 9, 11, 15))
    speed, _ = simulate(*cost, per_position=per_position)
    assert best > 1.3 and speed > 0.92 * best


@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("drafter", DRAFTERS)
def test_on_a_device_it_keeps_to_a_few_sizes_and_to_whole_blocks(simulate, cost, drafter):
    speed, drafted = simulate(*cost, *drafter, noisy=True, on_device=True)
    sizes, fewest = {int(size) for size in simulate.sizes}, int(simulate.fewest)
    assert sizes <= {1, 2, 4, 8, 12, 16, 23, 32, 48, 64} and fewest == 15 and drafted > 0
    assert speed > 0.9 * simulate(*cost, *drafter, noisy=True)[0]


# reads: rounds rounds_of_a_stretch seconds_of_one seconds_per_node draft_seconds p_good p_poor; stretches take turns, and
# the drafter knows its chances. Writes: tokens seconds drafted_rounds_in_poor_stretches
STRETCHES = r"""
#include "budget.h"
#include <cmath>
#include <cstdio>
#include <random>

int main() {
    int rounds, stretch;
    double one, per_node, draft, good, poor;
    while (scanf("%d %d %lf %lf %lf %lf %lf", &rounds, &stretch, &one, &per_node, &draft, &good, &poor) == 7) {
        std::mt19937 rng(1);
        std::uniform_real_distribution<double> uniform(0, 1);
        auto_budget budget;
        long tokens = 0, drafted_poorly = 0;
        double seconds = 0;
        for (int r = 0; r < rounds; ++r) {
            const bool   is_good = r/stretch % 2 == 1;
            const double chance  = is_good ? good : poor;
            bool       wanted = budget.wants_draft();
            draft_tree tree   = build_tree(0, std::vector<position_candidates>(wanted ? 15 : 0, { { 1 }, { (float) std::log(chance) } }), 63, false);
            if (wanted) {
                const int n_nodes = budget.choose({ &tree }, draft);
                tree.truncate(n_nodes);
                wanted = n_nodes > 0 || !budget.costs_nothing(draft);
            }
            int node = 0, sampled = 0;
            while (node >= 0) {
                sampled += 1;
                node = tree.child(node, uniform(rng) < chance ? 1 : 2);
            }
            const double verify = (one + per_node*(tree.n_nodes() - 1))*(0.95 + 0.1*uniform(rng));
            if (wanted) {
                budget.record_draft({ &tree }, sampled, draft, verify, draft + verify);
                drafted_poorly += !is_good;
            } else {
                budget.record_plain(1, verify, draft + verify);
            }
            tokens  += sampled;
            seconds += draft + verify;
        }
        printf("%ld %.9g %ld\n", tokens, seconds, drafted_poorly);
        fflush(stdout);
    }
}
"""


@pytest.fixture(scope="module")
def in_stretches(compile_program):
    process = compile_program(STRETCHES, "budget.cpp", "tree/best-nodes.cpp", "tree/draft-tree.cpp")

    def run(rounds, stretch, one, per_node, draft, good, poor):
        process.stdin.write(f"{rounds} {stretch} {one} {per_node} {draft} {good} {poor}\n")
        process.stdin.flush()
        tokens, seconds, drafted_poorly = process.stdout.readline().split()
        return int(tokens) * one / float(seconds), int(drafted_poorly)

    return run


@pytest.mark.parametrize("per_node", [0.5e-3, 1.5e-3])
def test_a_drafter_that_costs_nothing_is_ready_for_the_next_good_stretch(in_stretches, per_node):
    """However long its drafts were poor before: it need not rest, as it says itself what they are worth."""
    only_good, _ = in_stretches(2000, 1, 10e-3, per_node, 20e-6, 0.95, 0.95)
    speed, drafted_poorly = in_stretches(2000, 100, 10e-3, per_node, 20e-6, 0.95, 0.05)
    # half of the rounds are plain, and take one/seconds of a good one
    tokens_a_round = speed_of_rounds(only_good, per_node)
    assert speed > 0.9 * tokens_a_round and drafted_poorly < 20


def speed_of_rounds(only_good, per_node):
    """Of as many plain rounds as good ones, where a good one verifies a chain of 15: in units of plain decoding."""
    seconds = 1 + 15 * per_node / 10e-3
    return (only_good * seconds + 1) / (seconds + 1)


def test_drafts_that_cost_nothing_and_are_poor_lose_nothing(in_stretches):
    for poor in (0.02, 0.1, 0.2, 0.3):
        assert in_stretches(600, 1000, 10e-3, 4e-3, 20e-6, 0.9, poor)[0] > 0.985


# reads: rounds_of_each seconds_of_one seconds_per_node draft_seconds_per_lane chance inherit; conversations end one by one, from 8 to
# 1, or begin one by one. Writes: tokens seconds drafted_rounds, and the same where they begin
LANES = r"""
#include "budget.h"
#include <cmath>
#include <cstdio>
#include <random>

struct outcome { long tokens = 0; double seconds = 0; long drafted = 0; };

static outcome write(const std::vector<int> & numbers, int rounds, double one, double per_node, double draft, double chance, bool inherit) {
    std::mt19937 rng(1);
    std::uniform_real_distribution<double> uniform(0, 1);
    outcome res;
    auto_budget budget;
    for (size_t i = 0; i < numbers.size(); ++i) {
        const int n_lanes = numbers[i];
        if (i > 0) {
            budget = inherit ? budget.for_lanes(n_lanes > numbers[i - 1]) : auto_budget();
        }
        for (int r = 0; r < rounds; ++r) {
            const bool wanted = budget.wants_draft();
            std::vector<draft_tree> trees;
            std::vector<draft_tree *> pointers;
            for (int l = 0; l < n_lanes; ++l) {
                trees.push_back(build_tree(0, std::vector<position_candidates>(wanted ? 15 : 0, { { 1 }, { (float) std::log(chance) } }), 63, false));
            }
            for (draft_tree & tree : trees) {
                pointers.push_back(&tree);
            }
            const double draft_seconds = wanted ? draft*n_lanes : 0.0;
            if (wanted) {
                keep_best_nodes(pointers, budget.choose(pointers, draft_seconds));
            }
            int n_nodes = 0, sampled = 0;
            for (const draft_tree & tree : trees) {
                n_nodes += tree.n_nodes();
                for (int node = 0; node >= 0;) {
                    sampled += 1;
                    node = tree.child(node, uniform(rng) < chance ? 1 : 2);
                }
            }
            const double verify = (one + per_node*(n_nodes - 1))*(0.95 + 0.1*uniform(rng));
            if (wanted) {
                budget.record_draft(pointers, sampled, draft_seconds, verify, draft_seconds + verify);
            } else {
                budget.record_plain(n_lanes, verify, verify);
            }
            res.tokens  += sampled;
            res.seconds += draft_seconds + verify;
            res.drafted += wanted;
        }
    }
    return res;
}

int main() {
    int rounds, inherit;
    double one, per_node, draft, chance;
    while (scanf("%d %lf %lf %lf %lf %d", &rounds, &one, &per_node, &draft, &chance, &inherit) == 6) {
        for (const std::vector<int> & numbers : { std::vector<int>{ 8, 7, 6, 5, 4, 3, 2, 1 }, std::vector<int>{ 1, 2, 3, 4, 5, 6, 7, 8 } }) {
            const outcome res = write(numbers, rounds, one, per_node, draft, chance, inherit != 0);
            printf("%ld %.9g %ld ", res.tokens, res.seconds, res.drafted);
        }
        printf("\n");
        fflush(stdout);
    }
}
"""


@pytest.fixture(scope="module")
def with_lanes(compile_program):
    process = compile_program(LANES, "budget.cpp", "tree/best-nodes.cpp", "tree/draft-tree.cpp")

    def run(rounds, one, per_node, draft, chance, inherit=True):
        """Tokens per second and drafted rounds, of conversations that end one by one and of those that begin so."""
        process.stdin.write(f"{rounds} {one} {per_node} {draft} {chance} {int(inherit)}\n")
        process.stdin.flush()
        numbers = [float(word) for word in process.stdout.readline().split()]
        return (numbers[0] / numbers[1], numbers[2]), (numbers[3] / numbers[4], numbers[5])

    return run


def test_drafts_that_do_not_pay_rest_when_conversations_end_or_begin(with_lanes):
    """Where a node costs nearly as much as a token alone; anew for each number, every one would try them."""
    costs = dict(rounds=12, one=10e-3, per_node=9e-3, draft=5e-3, chance=0.3)
    anew, known = with_lanes(**costs, inherit=False), with_lanes(**costs)
    for (speed_anew, drafted_anew), (speed, drafted) in zip(anew, known):
        assert drafted < 0.7 * drafted_anew
        assert speed > 1.02 * speed_anew


def test_drafts_that_pay_go_on_when_conversations_end_or_begin(with_lanes):
    costs = dict(rounds=12, one=10e-3, per_node=0.2e-3, draft=0.3e-3, chance=0.8)
    anew, known = with_lanes(**costs, inherit=False), with_lanes(**costs)
    for (speed_anew, _), (speed, drafted) in zip(anew, known):
        assert drafted >= 8 * (12 - 2)
        assert speed > 0.97 * speed_anew  # other tokens are drawn


def test_drafts_that_pay_for_few_conversations_come_back_when_many_have_ended(with_lanes):
    """A draft for each conversation takes three tenths of a token: for 8 that does not pay, for one it does."""
    (_, drafted), _ = with_lanes(rounds=24, one=10e-3, per_node=0.8e-3, draft=3e-3, chance=0.75)
    assert drafted > 24
