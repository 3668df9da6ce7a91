// C ABI of the speculation engine: drafters of several kinds propose trees of tokens, and the target verifies the trees of
// several lanes in one forward. DFlash drafts: arXiv 2602.06036; draft trees: DDTree, arXiv 2604.12989. A lane is a sequence
// of the target's context: 0 to n_lanes - 1. Not thread-safe.
//
// Functions that can fail return NULL or a negative number and leave a sentence for llama_dflash_last_error().
// No C++ exception leaves this library. (A thread that is ended while it is in a sampler's callback unwinds through it.)
#pragma once

#include "llama.h"

#ifdef _WIN32
#    define LLAMA_DFLASH_API __declspec(dllexport)
#else
#    define LLAMA_DFLASH_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

    struct llama_dflash;

    enum llama_dflash_mode {
        LLAMA_DFLASH_MODE_TREE  = 0,
        LLAMA_DFLASH_MODE_CHAIN = 1, // only the most probable token of every position
    };

    struct llama_dflash_params {
        int32_t mode;            // llama_dflash_mode
        int32_t budget;          // nodes of a lane beside the root in every round; 0: chosen in every round ("auto")
        int32_t n_lanes;         // at most the target's n_seq_max
        int32_t device_outputs;  // find candidates and greedy tokens where logits are computed, so that rows of logits stay
                                 // there: 1 yes, 0 no, -1 where that is a device with memory of its own
        int32_t calibrated;      // 1: nodes are as probable as what was accepted so far says, 0: as their drafters say
    };

    struct llama_dflash_drafter_params {
        const char * kind;       // "dflash", "eagle3", "model", "mtp" or "ngram"
        const char * path;       // of its file; mtp: "" for the layer in the target's
        int32_t n_context;       // positions of a lane that it remembers (a ring)
        int32_t n_gpu_layers;    // layers of it on the GPU
        int32_t type_k;          // ggml_type of its K cache
        int32_t type_v;          // ggml_type of its V cache
        int32_t n_threads;       // 0: as many as the target's batches use
        int32_t flash_attn;      // 1 where it is supported, 0 never
        int32_t short_block;     // dflash: 1: denoise no more positions than are drafted, 0: always the whole block
        int32_t depth;           // eagle3, model, mtp: a forward for each depth of a tree, so many at most
        int32_t width;           // eagle3, model, mtp: nodes of a depth that are expanded, at most
        const llama_token * corpus;    // ngram: tokens of texts that all lanes look into, one after the other
        const int32_t * corpus_sizes;  // [n_corpus] of each of them
        int32_t n_corpus;
        int32_t n_remembered;    // ngram: tokens of earlier answers that all lanes look into, at most
    };

    // One lane's part in a round.
    struct llama_dflash_request {
        int32_t     lane;
        llama_token root;        // the last sampled token, not in the target's memory
        llama_pos   n_past;      // its position
        int32_t     n_max;       // at most so many tokens are sampled
    };

    // The tree of a lane's round. The pointers are valid until the engine's next round.
    struct llama_dflash_result {
        int32_t             n_nodes;    // nodes verified, the root included
        const llama_token * node_token; // [n_nodes]
        const int32_t     * parents;    // [n_nodes], -1 for the root
        const float       * logprob;    // [n_nodes] the drafter's log-probability of the node given its parent, 0 for the root
    };

    struct llama_dflash_token {
        llama_token token; // the target's own choice
        int32_t     node;  // where in the tree
        int32_t     row;   // that node's, for llama_get_logits_ith()
        int32_t     child; // the node that carries the token: the next one is sampled there; -1: the round is over
    };

    enum llama_dflash_phase {
        LLAMA_DFLASH_PHASE_DRAFT,  // injecting features, the drafter's forward
        LLAMA_DFLASH_PHASE_BUILD,  // log-probabilities, choosing the nodes
        LLAMA_DFLASH_PHASE_VERIFY, // the target's forward
        LLAMA_DFLASH_PHASE_SAMPLE, // walking the tree with the user's sampler
        LLAMA_DFLASH_PHASE_COMMIT, // keeping the accepted path, fetching its features
        LLAMA_DFLASH_PHASE_OTHER,
        LLAMA_DFLASH_PHASE_COUNT,
    };

    struct llama_dflash_stats {
        int64_t rounds;   // target forwards
        int64_t drafted;  // rounds that used a draft (the others decoded the root alone)
        int64_t nodes;    // nodes verified beside the roots
        int64_t accepted; // of these, nodes on accepted paths
        int64_t tokens;   // tokens sampled
        double  seconds[LLAMA_DFLASH_PHASE_COUNT];
    };

    LLAMA_DFLASH_API struct llama_dflash_params         llama_dflash_default_params(void);
    LLAMA_DFLASH_API struct llama_dflash_drafter_params llama_dflash_default_drafter_params(void);

    // Load these drafters for `target`. NULL on failure: no such file, no drafter, damaged, or made for another target
    // (vocabulary, hidden size, layers).
    LLAMA_DFLASH_API struct llama_dflash * llama_dflash_load(
            struct llama_context * target, const struct llama_dflash_drafter_params * drafters, int32_t n_drafters,
            struct llama_dflash_params params);

    LLAMA_DFLASH_API void llama_dflash_free(struct llama_dflash * engine);

    LLAMA_DFLASH_API const char * llama_dflash_last_error(void);

    // Is the model at `path` fit to be loaded? Returns 0, or -1 for damage that llama.cpp would abort at: tensors that nothing
    // computes with, numbers that no model has, a vocabulary whose parts do not fit together.
    LLAMA_DFLASH_API int32_t llama_dflash_check_model(const char * path);

    // Why can't the drafter at `drafter` draft for the target at `target`? Only what the files say about themselves is read.
    // Returns sentences, one a line, "" if the two fit; NULL on failure. Valid until the thread's next call.
    LLAMA_DFLASH_API const char * llama_dflash_misfits(const char * target, const char * drafter);

    // Which kind of drafter the file at `path` is: "dflash", "eagle3", "mtp" or "model" (any other one). NULL on failure. Valid
    // until the thread's next call.
    LLAMA_DFLASH_API const char * llama_dflash_kind_of(const char * path);

    // How many positions a DFlash drafter takes in with one forward: its sliding-window cache has room for them.
    LLAMA_DFLASH_API int32_t llama_dflash_injected_at_once(void);

    // From now on (or, with false, no longer) llama.cpp raises a C++ exception where it would abort the process in this thread:
    // for loading a model, which turns it into an error. Calls may be nested; every thread has its own.
    LLAMA_DFLASH_API void llama_dflash_no_abort(bool on);

    // As llama_sampler_sample(). Returns a token, or < 0 if the sampler failed (a grammar that no token satisfies).
    LLAMA_DFLASH_API llama_token llama_dflash_sample(struct llama_sampler * sampler, struct llama_context * ctx, int32_t idx);

    // Samples from a row's n_top largest logits (logits, then token ids as floats) by a chain as LLAMA_DFLASH_CHOICE_TOP_K says.
    // Returns -1, and no sampler has moved, where they don't decide which token the whole row would give. For tests.
    LLAMA_DFLASH_API llama_token llama_dflash_sample_from_top(struct llama_sampler * chain, const float * top, int32_t n_top);

    // False where the target's memory can't hold a tree: the engine then verifies chains.
    LLAMA_DFLASH_API bool llama_dflash_uses_trees(const struct llama_dflash * engine);

    // The target has decoded a batch, outside of rounds; then llama_dflash_observe() is called for every lane in it.
    LLAMA_DFLASH_API void llama_dflash_target_decoded(struct llama_dflash * engine);

    // The target's last decode evaluated tokens [n_tokens] of a lane, from position `pos` on: drafters remember them. They were
    // rows first_row, first_row + 1, ... of its batch. `n_after`: how many more of the lane will follow at once (what would soon
    // be forgotten again is then not even kept).
    LLAMA_DFLASH_API int32_t llama_dflash_observe(
            struct llama_dflash * engine, int32_t lane, llama_pos pos, const llama_token * tokens, int32_t n_tokens,
            int32_t first_row, int32_t n_after);

    // Forget what drafters know of a lane's positions >= n_past (0: all).
    LLAMA_DFLASH_API int32_t llama_dflash_truncate(struct llama_dflash * engine, int32_t lane, llama_pos n_past);

    // Begin a round of these lanes: draft after the root of each, and let the target look at all nodes in one forward. Settles
    // the round before. results: [n_lanes].
    // Returns 0, 1 if the target's memory has no room for the roots, 2 if its abort callback ended the forward, or < 0 on
    // failure. Until every lane's walk is over, or settled, the target takes no other decode, and no call that touches one
    // of the lanes whose walk is not (llama-tree.h).
    LLAMA_DFLASH_API int32_t llama_dflash_round(
            struct llama_dflash * engine, const struct llama_dflash_request * requests, int32_t n_lanes,
            struct llama_dflash_result * results);

    // What a sampler has to see of a row of logits; a promise, which saves fetching the rest of it from a GPU.
    enum llama_dflash_choice {
        LLAMA_DFLASH_CHOICE_ROW,    // all of it
        LLAMA_DFLASH_CHOICE_ARGMAX, // the largest logit: a plain argmax
        LLAMA_DFLASH_CHOICE_TOP_K,  // it is a chain that begins with a top-k, and nothing before this raises a logit
    };

    // Sample the next token of the lane's round: nothing is ever sampled, and no sampler moves, before it is asked for. After the
    // last token (child is -1) what was accepted is in the target's memory,
    // and nothing else of the lane. Returns 0, or < 0 on failure, of the sampler for instance: the round is then as before.
    LLAMA_DFLASH_API int32_t llama_dflash_next(
            struct llama_dflash * engine, int32_t lane, struct llama_sampler * sampler, enum llama_dflash_choice choice,
            struct llama_dflash_token * sampled);

    // llama_dflash_next() in steps, for who samples otherwise than with a llama_sampler. Where the lane's next token is to be
    // sampled: that node's row, for llama_get_logits_ith(). < 0 on failure: no round of it is going on.
    LLAMA_DFLASH_API int32_t llama_dflash_row(struct llama_dflash * engine, int32_t lane);

    // The token that a sampler chooses there, if what is at hand decides that without the rest of the row; the sampler has then
    // not accepted it yet. < 0 where it does not, or if the sampler failed: sample from the whole row; no sampler has moved.
    LLAMA_DFLASH_API llama_token llama_dflash_decided(
            struct llama_dflash * engine, int32_t lane, struct llama_sampler * sampler, enum llama_dflash_choice choice);

    // This token was sampled there. sampled->token is the one to go on with: the same, but for synthetic lengths. Returns 0, or
    // < 0 on failure.
    LLAMA_DFLASH_API int32_t llama_dflash_sampled(
            struct llama_dflash * engine, int32_t lane, llama_token token, struct llama_dflash_token * sampled);

    // End the lane's round where it is: the nodes at which tokens were sampled stay in the target's memory, which is then that
    // of plain decoding after the same tokens. Returns the number of positions in memory, or < 0 on failure. Harmless where no
    // round is going on.
    LLAMA_DFLASH_API int32_t llama_dflash_settle(struct llama_dflash * engine, int32_t lane);

    // What a drafter failed at for the first time, once; NULL if there is nothing new to say. A drafter that fails rests
    // for some rounds, longer every time; the rounds go on without drafts.
    LLAMA_DFLASH_API const char * llama_dflash_news(struct llama_dflash * engine);

    // As llama_set_abort_callback(), for the drafters' forwards.
    LLAMA_DFLASH_API void llama_dflash_set_abort_callback(struct llama_dflash * engine, ggml_abort_callback callback, void * data);

    // For timing with models of random weights: from now on accept so many tokens a round (mean, bonus included, at least 1),
    // whatever the target says; the text is meaningless. 0: no longer.
    LLAMA_DFLASH_API int32_t llama_dflash_set_synthetic_length(struct llama_dflash * engine, float length);

    // The log-probabilities of the first "dflash" drafter for a block after `root`, over the whole vocabulary:
    // out[n_positions][n_vocab], n_positions < block size (or equal to it, where the drafter samples from its anchor). Those of
    // DFlash2 and DSpark drafters are without their heads. For tests and tools.
    LLAMA_DFLASH_API int32_t llama_dflash_logprobs(
            struct llama_dflash * engine, int32_t lane, llama_token root, llama_pos n_past, int32_t n_positions, float * out);

    // In two sentences, what a budget of "auto" does and why. Never NULL; valid until the thread's next such call.
    LLAMA_DFLASH_API const char * llama_dflash_explain(struct llama_dflash * engine);

    // What was learned while it ran, as text: costs of rounds, and what the drafters' probabilities are worth. Valid until the
    // thread's next such call. llama_dflash_learn() goes on from there, in another engine with the same kinds of drafters;
    // it returns 0, or -1 if the text is not such a text.
    LLAMA_DFLASH_API const char * llama_dflash_learned(struct llama_dflash * engine);
    LLAMA_DFLASH_API int32_t      llama_dflash_learn(struct llama_dflash * engine, const char * text);

    // Of the lane's rounds.
    LLAMA_DFLASH_API struct llama_dflash_stats llama_dflash_get_stats(const struct llama_dflash * engine, int32_t lane);
    LLAMA_DFLASH_API void llama_dflash_reset_stats(struct llama_dflash * engine, int32_t lane);

    // What drafter `drafter` (0 is the first) remembers of a lane as bytes, to travel with a saved state of the target.
    LLAMA_DFLASH_API size_t  llama_dflash_state_size(struct llama_dflash * engine, int32_t lane, int32_t drafter);
    LLAMA_DFLASH_API size_t  llama_dflash_state_get(
            struct llama_dflash * engine, int32_t lane, int32_t drafter, uint8_t * out, size_t size);
    LLAMA_DFLASH_API int32_t llama_dflash_state_set(
            struct llama_dflash * engine, int32_t lane, int32_t drafter, const uint8_t * data, size_t size);

#ifdef __cplusplus
}
#endif
