// C ABI of the speculation engine: DFlash drafts (arXiv 2602.06036), draft trees (DDTree, arXiv 2604.12989) and their
// verification by the target in one forward. One engine serves sequence 0 of one target context and is not thread-safe.
//
// Functions that can fail return NULL or a negative number and leave a sentence for llama_dflash_last_error().
// No C++ exception leaves this library.
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
        int32_t budget;          // nodes beside the root in every round; 0: chosen in every round ("auto")
        int32_t n_context;       // positions whose features the drafter remembers (a ring)
        int32_t n_gpu_layers;    // layers of the drafter on the GPU
        int32_t type_k;          // ggml_type of the drafter's K cache
        int32_t type_v;          // ggml_type of the drafter's V cache
        int32_t n_threads;       // 0: as many as the target's batches use
        int32_t flash_attn;      // of the drafter: 1 where it is supported, 0 never
        int32_t short_block;     // 1: denoise no more positions than are drafted, 0: always the whole block
        int32_t device_outputs;  // find candidates and greedy tokens where logits are computed, so that rows of logits stay
                                 // there: 1 yes, 0 no, -1 where that is a device with memory of its own
        float   synthetic_length; // > 0: for timing only, accept so many tokens a round (mean, bonus included), whatever the
                                  // target says; the text is meaningless
    };

    // What one round did. The pointers are valid until the engine's next call.
    struct llama_dflash_result {
        int32_t             n_tokens;   // tokens sampled from the target: the accepted ones and the bonus token
        const llama_token * tokens;     // [n_tokens]
        const int32_t     * path;       // [n_tokens] the node each was sampled at: the row for llama_get_logits_ith()

        int32_t             n_nodes;    // nodes verified, the root included
        const llama_token * node_token; // [n_nodes]
        const int32_t     * parents;    // [n_nodes], -1 for the root
        const float       * logprob;    // [n_nodes] the drafter's log-probability of the node given its parent, 0 for the root
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

    // Called after every sampled token, before the next is sampled at its node.
    // Return 0 to go on, 1 to end the round after this token, -1 to abandon it (memory stays as before the round).
    typedef int32_t (*llama_dflash_on_token)(void * user_data, llama_token token);

    LLAMA_DFLASH_API struct llama_dflash_params llama_dflash_default_params(void);

    // Load the drafter at `path` (GGUF of architecture "dflash") for `target`. NULL on failure: no such file, no drafter,
    // damaged, or made for another target (vocabulary, hidden size, layers).
    LLAMA_DFLASH_API struct llama_dflash * llama_dflash_load(
            struct llama_context * target, const char * path, struct llama_dflash_params params);

    LLAMA_DFLASH_API void llama_dflash_free(struct llama_dflash * engine);

    LLAMA_DFLASH_API const char * llama_dflash_last_error(void);

    LLAMA_DFLASH_API int32_t llama_dflash_block_size(const struct llama_dflash * engine);

    // False where the target's memory can't hold a tree: the engine then verifies chains.
    LLAMA_DFLASH_API bool llama_dflash_uses_trees(const struct llama_dflash * engine);

    // The target's last decode evaluated `n_tokens` tokens of sequence 0 from position `pos` on: remember their features.
    // `n_after`: how many more tokens will follow at once (features that would soon be evicted are then not even kept).
    LLAMA_DFLASH_API int32_t llama_dflash_observe(struct llama_dflash * engine, llama_pos pos, int32_t n_tokens, int32_t n_after);

    // Forget the features of positions >= n_past (0: all).
    LLAMA_DFLASH_API int32_t llama_dflash_truncate(struct llama_dflash * engine, llama_pos n_past);

    // One round: draft after `root` (the last sampled token, at position n_past, not in the target's memory), verify,
    // accept with `sampler`, commit. At most n_max tokens are sampled. `greedy` says that the sampler is a plain argmax.
    // Returns 0, 1 if the target's memory has no room for the root, 2 if on_token abandoned the round, or < 0 on failure.
    LLAMA_DFLASH_API int32_t llama_dflash_round(
            struct llama_dflash       * engine,
            struct llama_sampler      * sampler,
            bool                        greedy,
            llama_token                 root,
            llama_pos                   n_past,
            int32_t                     n_max,
            llama_dflash_on_token       on_token,
            void                      * user_data,
            struct llama_dflash_result * result);

    // The drafter's log-probabilities for a block after `root`, over the whole vocabulary: out[n_positions][n_vocab],
    // n_positions < block size (or equal to it, where the drafter samples from its anchor). Those of DFlash2 and DSpark
    // drafters are without their heads. For tests and tools.
    LLAMA_DFLASH_API int32_t llama_dflash_logprobs(
            struct llama_dflash * engine, llama_token root, llama_pos n_past, int32_t n_positions, float * out);

    LLAMA_DFLASH_API struct llama_dflash_stats llama_dflash_get_stats(const struct llama_dflash * engine);
    LLAMA_DFLASH_API void llama_dflash_reset_stats(struct llama_dflash * engine);

    // The drafter's memory as bytes, to travel with a saved state of the target.
    LLAMA_DFLASH_API size_t  llama_dflash_state_size(struct llama_dflash * engine);
    LLAMA_DFLASH_API size_t  llama_dflash_state_get(struct llama_dflash * engine, uint8_t * out, size_t size);
    LLAMA_DFLASH_API int32_t llama_dflash_state_set(struct llama_dflash * engine, const uint8_t * data, size_t size);

#ifdef __cplusplus
}
#endif
