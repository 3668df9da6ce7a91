// How often the next token is one of those that followed earlier: learned from the text itself, token by token, whether or
// not anything was drafted. A text that copies has other chances than one that only shares words with its prompt.
#pragma once

#include <array>
#include <cstdint>

class match_trust {
public:
    // What a match's chances depend on: how many tokens agree, and whether the text is followed by alignment (over tokens that
    // differ) or by an exact match. rank 0: the best match of a position; 1: a further one, whose tokens the better ones lack.
    enum kind : int32_t { exact, aligned, n_kinds };

    match_trust();

    double get(kind of, int32_t length, int32_t rank) const { return cell(of, length, rank).chance; }

    void learn(kind of, int32_t length, int32_t rank, bool hit);

private:
    static constexpr int32_t n_lengths = 10;
    static constexpr int32_t n_ranks   = 2;

    struct running_chance {
        double chance;
        double weight; // of what was seen, the prior included
    };

    static int32_t bucket(int32_t length);

    const running_chance & cell(kind of, int32_t length, int32_t rank) const;

    std::array<running_chance, n_kinds*n_lengths*n_ranks> cells;
};
