"""What of upstream's tests does not fit tiny random models without a network, by name, with the reason."""

from __future__ import annotations

# Tests by the end of their node id; a name without parameters stands for all of them.
LEFT_OUT = {
    "test_basic.py::test_no_ui": "asks for the chat page, which only a build with npm has",
    "test_security.py::test_access_static_assets_without_api_key": "asks for the chat page, which only a build with npm has",
    "test_proxy.py::test_mcp_proxy": "asks example.com",
    "test_rerank.py::test_rerank_usage": "counts tokens of jina's vocabulary; the reranker here has BGE's",
    "test_vision_api.py::test_vision_embeddings_oai_content": "wants embeddings of two batches equal to the last bit, which F32 weights do not give",
}

# Patterns that upstream's tests search in what their trained models write. Ours are random: for these the text is compared with
# what another run wrote (`--texts`), or has to be there. Any other pattern is searched for as it is.
WORDS = {
    "(little|girl)+",
    "But she couldn't",
    '(Suddenly)+|\\{ " Sarax.',
    "^ blue",
    "(Aside|she|felter|alonger)+",
    "Whillicter",
    "(Suddenly)+",
    "(going|bed)+",
    "(princesses|everyone|kids|Anna|forest)+",
    "(Ann|small|shiny|Daddy|Jimmy)+",
    "(Dad|excited|park|Jimmy)+",
    "(little|girl|three|years|old)+",
    "(eye|love|glass|sun)+",
    "(bright|day|many|happy)+",
    "(special|thing|gifted)+",
    "(far|from|home|away)+",
    "(Whiskers|Flana)+",
    "(Jack|said)+",
    "(wise|kind|owl|answer)+",
    "(cat)+",
    "(frog)+",
    "(cat)+|(automobile)+",
    "[ -3000 ]",  # the number in a list, of characters from the blank to "3"
}

_SHORT_TEXT = """\
Lorem ipsum dolor sit amet, consectetur adipiscing elit, sed do eiusmod tempor incididunt ut labore et dolore magna aliqua.
Ut enim ad minim veniam, quis nostrud exercitation ullamco laboris nisi ut aliquip ex ea commodo consequat.
Duis aute irure dolor in reprehenderit in voluptate velit esse cillum dolore eu fugiat nulla pariatur."""


def _chat(system: str, user: str) -> str:
    return f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n"


# Upstream's prompts, and how many tokens its tests expect of them
PROMPT_TOKENS = [
    ("I believe the meaning of life is", 18),
    ("Write a joke about AI from a very long prompt which will not be truncated", 46),
    ("What is the capital of France?", 21),
    ("Hi how are you", 8),
    ("This is not a chat template, it is", 23),
    (_SHORT_TEXT, 226),
    (_chat("Book", "Hey"), 69),
    (_chat("Book", "What is the best book"), 77),
    (_chat("Book", "What is\nthe best book"), 79),
    (_chat("Test", "1 2 3 4 5 6"), 77),
    (_chat("You are a coding assistant.", "Write the fibonacci function in c++."), 104),
]

# What `make test` runs: a look at everything that draft trees touch
IN_EVERY_RUN = [
    "test_basic.py::test_server_props",
    "test_basic.py::test_load_split_model",
    "test_chat_completion.py::test_chat_completion_cached_tokens",
    "test_chat_completion.py::test_chat_completion_stream",
    "test_chat_completion.py::test_completion_with_grammar",
    "test_chat_completion.py::test_completion_with_json_schema",
    "test_completion.py::test_completion",
    "test_completion.py::test_completion_stream_vs_non_stream",
    "test_completion.py::test_completion_parallel_slots",
    "test_completion.py::test_n_probs_post_sampling",
    "test_completion.py::test_logit_bias",
    "test_completion.py::test_cancel_request",
    "test_completion.py::test_completion_prompt_cache",
    "test_ctx_shift.py::test_ctx_shift_enabled",
    "test_embedding.py::test_embedding_multiple",
    "test_infill.py::test_infill_with_input_extra",
    "test_kv_keep_only_active.py::test_clear_and_restore",
    "test_lora.py::test_lora_per_request",
    "test_metrics.py::test_metrics_predicted_total_matches_requests",
    "test_metrics.py::test_metrics_generation_rate_excludes_first_token",
    "test_rerank.py::test_rerank",
    "test_slot_save.py::test_slot_save_restore",
    "test_slot_save.py::test_slot_save_restore_with_image",
    "test_speculative.py::test_with_and_without_draft",
    "test_tool_call.py::test_completion_without_tool_call_fast",
]
