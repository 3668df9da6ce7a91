#include "suffix-index.h"

#include <algorithm>
#include <stdexcept>

suffix_index::suffix_index(int32_t max_context, bool keeps_log) : n_context(max_context), keeps_log(keeps_log), table(64, -1) {
    new_state(0, -1, 0, 0);
}

int32_t suffix_index::new_state(int32_t length, int32_t link, int32_t count, int32_t first_end) {
    states.push_back({ length, link, -1, count, first_end });
    return (int32_t) states.size() - 1;
}

//
// edges
//

size_t suffix_index::slot_of(int32_t from, int32_t token) const {
    const uint64_t key  = ((uint64_t) (uint32_t) from << 32 | (uint32_t) token)*0x9e3779b97f4a7c15ull;
    const size_t   mask = table.size() - 1;
    size_t slot = (key >> 32) & mask;
    while (table[slot] >= 0 && (edges[table[slot]].from != from || edges[table[slot]].token != token)) {
        slot = (slot + 1) & mask;
    }
    return slot;
}

int32_t suffix_index::find(int32_t from, int32_t token) const {
    int32_t e = states[from].edges;
    for (int i = 0; i < 4; ++i, e = edges[e].next) { // most states have few edges
        if (e < 0 || edges[e].token == token) {
            return e;
        }
    }
    return table[slot_of(from, token)];
}

// Edges enter the table in their own order, also here: the newest edge is at the end of its probe sequence, and undo() can
// simply free its slot.
void suffix_index::grow_table() {
    table.assign(table.size()*2, -1);
    for (size_t e = 0; e < edges.size(); ++e) {
        table[slot_of(edges[e].from, edges[e].token)] = (int32_t) e;
    }
}

void suffix_index::add_edge(int32_t from, int32_t token, int32_t to) {
    if (2*(edges.size() + 1) > table.size()) {
        grow_table();
    }
    edges.push_back({ from, token, to, states[from].edges });
    states[from].edges = (int32_t) edges.size() - 1;
    table[slot_of(from, token)] = states[from].edges;
}

//
// appending
//

void suffix_index::begin_text() {
    if (keeps_log) {
        throw std::logic_error("suffix_index::begin_text: an index with a log holds one text");
    }
    last   = 0;
    window = {};
}

void suffix_index::append(int32_t token) {
    split_now = -1;
    const mark before = { window, last, -1, (int32_t) states.size(), (int32_t) edges.size(), (int32_t) changes.size() };
    tokens.push_back(token);
    extend(token);
    window = fit(window); // a split may have taken its context over
    window = { edges[find(window.state, token)].to, std::min(window.length, n_context) + 1 };
    window = fit(window);
    count_window(1);
    if (keeps_log) {
        marks.push_back(before);
        marks.back().split = split_now;
    }
}

// The step of the textbook.
void suffix_index::extend(int32_t token) {
    const int32_t known = find(last, token);
    if (known >= 0) { // only after begin_text()
        const int32_t q = edges[known].to;
        last = states[q].length == states[last].length + 1 ? q : split(q, last, token);
        return;
    }
    const int32_t added = new_state(states[last].length + 1, 0, 0, (int32_t) tokens.size());
    int32_t p = last;
    int32_t e = -1;
    while (p >= 0 && (e = find(p, token)) < 0) {
        add_edge(p, token, added);
        p = states[p].link;
    }
    if (p >= 0) {
        const int32_t q = edges[e].to;
        const int32_t link = states[q].length == states[p].length + 1 ? q : split(q, p, token);
        states[added].link = link;
    }
    last = added;
}

// Of state q, the contexts that are no longer than (from, token) now occur at one place more: they become a state of their
// own, which has the same edges.
int32_t suffix_index::split(int32_t q, int32_t from, int32_t token) {
    const state   of   = states[q];
    const int32_t part = new_state(states[from].length + 1, of.link, of.count, of.first_end);
    std::vector<int32_t> copied;
    for (int32_t e = of.edges; e >= 0; e = edges[e].next) {
        copied.push_back(e);
    }
    for (auto e = copied.rbegin(); e != copied.rend(); ++e) {
        add_edge(part, edges[*e].token, edges[*e].to);
    }
    for (int32_t p = from; p >= 0; p = states[p].link) {
        const int32_t e = find(p, token);
        if (e < 0 || edges[e].to != q) {
            break;
        }
        edges[e].to = part;
        if (keeps_log) {
            changes.push_back(e);
        }
    }
    states[q].link = part;
    split_now = q;
    return part;
}

// The ends of the window, as many as differ in where they occur.
void suffix_index::count_window(int32_t by) {
    for (int32_t s = window.state; s > 0; s = states[s].link) {
        states[s].count += by;
    }
}

//
// cutting back
//

void suffix_index::undo() {
    const mark & before = marks.back();
    count_window(-1);
    if (before.split >= 0) {
        states[before.split].link = states[states[before.split].link].link;
        for (size_t i = before.n_changes; i < changes.size(); ++i) {
            edges[changes[i]].to = before.split;
        }
        changes.resize(before.n_changes);
    }
    while ((int32_t) edges.size() > before.n_edges) {
        const edge & e = edges.back();
        table[slot_of(e.from, e.token)] = -1;
        states[e.from].edges = e.next;
        edges.pop_back();
    }
    states.resize(before.n_states);
    last   = before.last;
    window = before.window;
    marks .pop_back();
    tokens.pop_back();
}

void suffix_index::truncate(size_t n_tokens) {
    if (!keeps_log) {
        throw std::logic_error("suffix_index::truncate: this index keeps no log");
    }
    while (tokens.size() > n_tokens) {
        undo();
    }
}

//
// contexts
//

suffix_index::context suffix_index::fit(context c) const {
    while (c.state > 0 && c.length <= states[states[c.state].link].length) {
        c.state = states[c.state].link;
    }
    return c;
}

suffix_index::context suffix_index::repeated_end() const {
    if (window.state == last) { // which occurs once
        return last == 0 ? context{} : shorter(window);
    }
    return fit({ window.state, std::min(window.length, n_context) });
}

suffix_index::context suffix_index::shorter(context c) const {
    const int32_t link = states[fit(c).state].link;
    return { link, states[link].length };
}

suffix_index::context suffix_index::advance(context c, int32_t token) const {
    c = fit(c);
    int32_t e;
    while ((e = find(c.state, token)) < 0) {
        if (c.state == 0) {
            return {};
        }
        c = shorter(c);
    }
    return fit({ edges[e].to, std::min(c.length + 1, n_context) });
}

size_t suffix_index::bytes() const {
    return tokens.capacity()*sizeof(int32_t) + states.capacity()*sizeof(state) + edges.capacity()*sizeof(edge) +
           table.capacity()*sizeof(int32_t) + marks.capacity()*sizeof(mark) + changes.capacity()*sizeof(int32_t);
}
