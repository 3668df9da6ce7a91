// What may come next in a text, from the text itself and from others: a tree of the continuations of its longest matches
// (SuffixDecoding, arXiv 2411.04975), with probabilities.
#pragma once

#include "match-trust.h"
#include "suffix-index.h"

#include <array>
#include <cstdint>
#include <vector>

struct predicted_node {
    int32_t token;
    int32_t parent; // -1: follows the text
    float   prob;   // given the parent, in (0, 1]; those of siblings add up to 1 at most
};

class text_predictor {
public:
    // Other texts to look into; they must outlive this, and may grow.
    using texts = std::vector<const suffix_index *>;

    static constexpr int32_t max_context = 32; // tokens of a match that are looked at
    static constexpr size_t  max_others  = 2;

    explicit text_predictor(texts others = {});

    // by_model: the token was sampled, so that it shows what matches are worth; those of a prompt don't.
    void append(int32_t token, bool by_model);

    // Cuts back to the first n_tokens. What matches are worth stays learned.
    void truncate(size_t n_tokens);

    size_t  size()          const { return own.size(); }
    int32_t token(size_t i) const { return own.token(i); }
    size_t  bytes()         const { return own.bytes(); }

    // The other texts have grown, or are others.
    void others_changed() { match_others_again(); }

    // The most probable continuations, parents first and in descending probability of their paths, none of which is under
    // least_path_prob, or deeper than max_depth; with chain, of every node the best child alone.
    std::vector<predicted_node> grow(int32_t max_nodes, int32_t max_depth, double least_path_prob, bool chain) const;

private:
    // Where the text, or the text and a drafted path, stands in the indexes.
    struct place {
        std::array<suffix_index::context, 1 + max_others> matches; // in this text, then in the others
        int32_t aligned = -1; // the position in this text of the token that follows where the copied text agrees
        int32_t agreed  = 0;  // how many tokens have agreed since the last that did not
        int32_t misses  = 0;  // how many have not, one after the other
    };
    struct candidate {
        int32_t token;
        double  prob;
    };
    struct source;

    const suffix_index & index(size_t i) const { return i == 0 ? own : *others[i - 1]; }
    size_t               n_indexes()     const { return 1 + others.size(); }

    template<typename visitor> void each_level(const place & at, visitor && visit) const;
    std::vector<source>    sources(const place & at) const;
    std::vector<candidate> predict(const place & at) const;
    void                   learn(int32_t token);
    place                  after(const place & at, int32_t token) const;
    void                   follow(place & at, int32_t token) const;
    void                   realign();
    void                   match_others_again();

    suffix_index own;
    texts        others;
    match_trust  trust;
    place        here;
};
