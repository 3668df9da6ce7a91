// Where has what was just written been written before, how often, and what came next? A suffix automaton (Blumer et al.
// 1985) over one text or several, with the number of occurrences of every context of up to max_context tokens.
//
// Appending a token takes O(1) amortised time for the automaton and at most max_context steps for the counts. A text that
// is cut back undoes its last tokens one by one, each as cheaply as it was appended. Memory: at most 2 states, 3 edges and 2
// changed edges per token; text and code take 140 bytes a token, with the log for cutting back 170 (bytes()).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

class suffix_index {
public:
    // Some tokens that occur in a text: all contexts that occur at the same places share a state.
    struct context {
        int32_t state  = 0; // 0: the empty context
        int32_t length = 0; // in tokens
    };

    // keeps_log: truncate() works, which needs a log.
    explicit suffix_index(int32_t max_context, bool keeps_log = true);

    // What is appended next does not continue what was appended before. Not with a log.
    void begin_text();
    void append(int32_t token);

    // Cuts back to the first n_tokens. Needs the log.
    void truncate(size_t n_tokens);

    size_t  size()              const { return tokens.size(); }
    int32_t token(size_t i)     const { return tokens[i]; }
    int32_t max_context()       const { return n_context; }

    // The longest end of the text, of at most max_context tokens, that also occurs before. Of a single text.
    context repeated_end() const;

    // The longest end of (c, token) that occurs, of at most max_context tokens. Repairs a context that is older than the
    // last append(), too; truncate() invalidates contexts.
    context advance(context c, int32_t token) const;

    // The longest end of c that occurs at more places; c must not be empty.
    context shorter(context c) const;

    // How often c occurs, the end of the text included. Not for the empty context.
    int32_t count(context c) const { return states[c.state].count; }

    // The position after the first occurrence of c.
    int32_t first_end(context c) const { return states[c.state].first_end; }

    // Calls visit(token, count) for every token that follows c somewhere, those that did so first last; until it returns false.
    template<typename visitor> void each_next(context c, visitor && visit) const {
        for (int32_t e = states[c.state].edges; e >= 0; e = edges[e].next) {
            if (!visit(edges[e].token, states[edges[e].to].count)) {
                return;
            }
        }
    }

    size_t bytes() const;

private:
    struct state {
        int32_t length;    // of the longest of its contexts; the shortest has one token more than its link's longest
        int32_t link;      // the state of the longest end that occurs at more places
        int32_t edges;     // the newest edge, or -1
        int32_t count;     // of occurrences; kept up only where a context of at most max_context + 1 tokens is in the state
        int32_t first_end;
    };
    struct edge {
        int32_t from, token, to;
        int32_t next; // of the same state
    };
    // What append() found, so that it can be undone.
    struct mark {
        context window;
        int32_t last;
        int32_t split;     // the state that was split for this token, or -1
        int32_t n_states;
        int32_t n_edges;
        int32_t n_changes;
    };

    int32_t new_state(int32_t length, int32_t link, int32_t count, int32_t first_end);
    void    add_edge(int32_t from, int32_t token, int32_t to);
    int32_t find(int32_t from, int32_t token) const; // an edge, or -1
    size_t  slot_of(int32_t from, int32_t token) const;
    void    grow_table();
    void    extend(int32_t token);
    int32_t split(int32_t q, int32_t from, int32_t token);
    void    count_window(int32_t by);
    void    undo();
    context fit(context c) const;

    int32_t n_context;
    bool    keeps_log;

    std::vector<int32_t> tokens;
    std::vector<state>   states;
    std::vector<edge>    edges;
    std::vector<int32_t> table; // open addressing: edges by (from, token), -1 where free
    int32_t              last = 0;
    context              window; // the last max_context + 1 tokens
    int32_t              split_now = -1;

    std::vector<mark>    marks;   // one a token
    std::vector<int32_t> changes; // edges that a split redirected
};
