#include "llama-grammar-limits.h"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

static constexpr size_t max_nesting  = 256;      // parentheses: the parser recurses
static constexpr size_t max_elements = 1 << 20;  // of all rules, 8 bytes each
static constexpr size_t max_waiting  = 1 << 16;  // stacks while rules are replaced by what they stand for: alternatives
static constexpr size_t max_waiting_elements = 1 << 21;
static constexpr size_t max_stacks   = 1 << 12;  // ways to go on at one place in a text

// Comparing a candidate with an element of a set of characters is one piece of work, and copying an element of a stack.
// Where a string of JSON may go on, that is about 50 pieces for each token of a vocabulary. The constant is for small ones.
static constexpr uint64_t work_per_candidate = 1000;
static constexpr uint64_t least_work         = 20000000;

static thread_local std::string error;
static thread_local bool        has_error = false;
static thread_local size_t      nesting   = 0;
static thread_local size_t      n_grown   = 0;
static thread_local uint64_t    work_left = least_work;

const char * llama_grammar_take_error(void) {
    const bool had = has_error;
    has_error = false;
    return had ? error.c_str() : nullptr;
}

void llama_grammar_note_error(const char * what) {
    if (!has_error) {
        error = what;
        has_error = true;
    }
}

//
// parsing
//

void llama_grammar_begin_parsing() {
    nesting = 0;
    n_grown = 0;
}

llama_grammar_nesting::llama_grammar_nesting() {
    if (nesting >= max_nesting) {
        throw std::runtime_error("parentheses are nested deeper than " + std::to_string(max_nesting) + " levels");
    }
    ++nesting;
}

llama_grammar_nesting::~llama_grammar_nesting() {
    --nesting;
}

void llama_grammar_check_growth(size_t n_elements, uint64_t n_times) {
    if (n_elements > 0 && n_times > (max_elements - n_grown) / n_elements) {
        throw std::runtime_error("its repetitions make more than " + std::to_string(max_elements) + " elements");
    }
    n_grown += n_elements * n_times;
}

static bool ends_alternative(const llama_grammar_element & element) {
    return element.type == LLAMA_GRETYPE_END || element.type == LLAMA_GRETYPE_ALT;
}

// A rule may be empty if all that one of its alternatives has are references to rules that may.
static std::vector<bool> rules_that_may_be_empty(const llama_grammar_rules & rules) {
    std::vector<bool>   may_be_empty(rules.size(), false);
    std::vector<size_t> todo, n_left; // of alternatives: references to rules that may not be empty, as far as is known
    std::vector<std::vector<std::pair<size_t, size_t>>> used_by(rules.size()); // alternatives and their rules
    const auto mark = [&](size_t rule) {
        if (!may_be_empty[rule]) {
            may_be_empty[rule] = true;
            todo.push_back(rule);
        }
    };
    for (size_t i = 0; i < rules.size(); ++i) {
        std::vector<size_t> references;
        bool consumes = false;
        for (const llama_grammar_element & element : rules[i]) {
            if (element.type == LLAMA_GRETYPE_RULE_REF) {
                references.push_back(element.value);
            } else if (!ends_alternative(element)) {
                consumes = true;
            } else {
                for (size_t reference : consumes ? std::vector<size_t>() : references) {
                    used_by[reference].emplace_back(n_left.size(), i);
                }
                n_left.push_back(references.size());
                if (!consumes && references.empty()) {
                    mark(i);
                }
                references.clear();
                consumes = false;
            }
        }
    }
    while (!todo.empty()) {
        const size_t rule = todo.back();
        todo.pop_back();
        for (const auto & [alternative, owner] : used_by[rule]) {
            if (--n_left[alternative] == 0) {
                mark(owner);
            }
        }
    }
    return may_be_empty;
}

struct leading_reference {
    size_t from, to;
    bool   grows; // something follows it, which waits on the stack
};

static std::vector<leading_reference> leading_references(const llama_grammar_rules & rules) {
    const std::vector<bool> may_be_empty = rules_that_may_be_empty(rules);
    std::vector<leading_reference> found;
    for (size_t i = 0; i < rules.size(); ++i) {
        bool at_start = true;
        for (size_t e = 0; e < rules[i].size(); ++e) {
            const llama_grammar_element & element = rules[i][e];
            if (at_start && element.type == LLAMA_GRETYPE_RULE_REF) {
                found.push_back({ i, element.value, !ends_alternative(rules[i][e + 1]) });
                at_start = may_be_empty[element.value];
            } else {
                at_start = ends_alternative(element);
            }
        }
    }
    return found;
}

using graph = std::vector<std::vector<size_t>>;

// Appends the nodes that are reached from `start` to `order`, each after those that it leads to.
static void visit(const graph & edges, size_t start, std::vector<bool> & seen, std::vector<size_t> & order) {
    if (seen[start]) {
        return;
    }
    std::vector<std::pair<size_t, size_t>> path = { { start, 0 } }; // nodes, and how many of their edges were followed
    seen[start] = true;
    while (!path.empty()) {
        const size_t node = path.back().first;
        if (path.back().second == edges[node].size()) {
            order.push_back(node);
            path.pop_back();
        } else {
            const size_t next = edges[node][path.back().second++];
            if (!seen[next]) {
                seen[next] = true;
                path.emplace_back(next, 0);
            }
        }
    }
}

// The circle that every node is in, by number: Kosaraju's algorithm, without recursion.
static std::vector<size_t> circles(const graph & forward, const graph & backward) {
    std::vector<size_t> order, members, circle(forward.size());
    std::vector<bool> seen(forward.size(), false);
    for (size_t i = 0; i < forward.size(); ++i) {
        visit(forward, i, seen, order);
    }
    seen.assign(forward.size(), false);
    for (size_t n = order.size(); n-- > 0;) {
        members.clear();
        visit(backward, order[n], seen, members);
        for (size_t member : members) {
            circle[member] = n;
        }
    }
    return circle;
}

void llama_grammar_check_rules(const llama_grammar_rules & rules) {
    size_t n_elements = 0;
    for (const llama_grammar_rule & rule : rules) {
        n_elements += rule.size();
    }
    if (n_elements > max_elements) {
        throw std::runtime_error("its rules have more than " + std::to_string(max_elements) + " elements");
    }
    const std::vector<leading_reference> references = leading_references(rules);
    graph forward(rules.size()), backward(rules.size());
    for (const leading_reference & reference : references) {
        forward[reference.from].push_back(reference.to);
        backward[reference.to].push_back(reference.from);
    }
    // a circle on which nothing grows comes back to a stack that is known, and ends there: (a?)* is one
    const std::vector<size_t> circle = circles(forward, backward);
    for (const leading_reference & reference : references) {
        if (reference.grows && circle[reference.from] == circle[reference.to]) {
            throw std::runtime_error("left recursion: a rule refers to itself before it has consumed a character");
        }
    }
}

//
// sampling
//

void llama_grammar_begin_work(size_t n_candidates) {
    work_left = least_work + work_per_candidate * n_candidates;
}

void llama_grammar_count_work(size_t n) {
    if (n > work_left) {
        throw std::runtime_error("it is too ambiguous: the next token would take too long to choose");
    }
    work_left -= n;
}

void llama_grammar_check_waiting(size_t n_stacks, size_t n_elements) {
    if (n_stacks > max_waiting || n_elements > max_waiting_elements) {
        throw std::runtime_error("it is too ambiguous: more than " + std::to_string(max_waiting) + " alternatives at one place");
    }
}

void llama_grammar_check_stacks(size_t n_stacks) {
    if (n_stacks > max_stacks) {
        throw std::runtime_error("it is too ambiguous: more than " + std::to_string(max_stacks) + " ways to go on");
    }
}

void llama_grammar_redirect(const llama_grammar_rules & from, const llama_grammar_rules & to, llama_grammar_stacks & stacks) {
    std::vector<std::pair<const llama_grammar_element *, size_t>> starts;
    for (size_t i = 0; i < from.size(); ++i) {
        starts.emplace_back(from[i].data(), i);
    }
    std::sort(starts.begin(), starts.end());
    for (llama_grammar_stack & stack : stacks) {
        for (const llama_grammar_element *& element : stack) {
            const auto & [start, i] = *std::prev(std::upper_bound(starts.begin(), starts.end(), std::make_pair(element, from.size())));
            element = to[i].data() + (element - start);
        }
    }
}
