"""What crosses the network in a round: hidden states, node ids, candidates, features of accepted tokens; each graph once."""

import itertools
import struct
import sys
from pathlib import Path

import pytest
from conftest import PROMPT, Pair

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import rpc as paper  # noqa: E402

N_EMBD = 64


def rounds_of(pair, mode, ends, n_tokens=48, n_warm=24, **settings):
    """Generates, and counts what passes after the first tokens. Returns (rounds, tokens) counted."""
    llm = pair.load(mode, ends, **settings)
    steps = llm.generate(PROMPT, temp=0.0)
    list(itertools.islice(steps, n_warm))
    while mode != "plain" and llm._is_walking:
        next(steps)
    for end in ends:
        end.reset_counts()
    before = 0 if mode == "plain" else llm.speculative_stats.rounds
    n = sum(1 for _ in itertools.islice(steps, n_tokens))
    while mode != "plain" and llm._is_walking:
        next(steps)
        n += 1
    n_rounds = n if mode == "plain" else llm.speculative_stats.rounds - before
    steps.close()
    counted = n_rounds, n
    for end in ends:  # before close() sends more
        end.counted = dict(end.messages), dict(end.sent), end.answers, end.received
    llm.close()
    return counted


@pytest.mark.parametrize("mode", ["plain", "chain", "tree"])
@pytest.mark.parametrize("n_workers", [2, 3])
def test_a_round_waits_for_as_many_answers_as_the_model_on_paper_says(pair, mode, n_workers, workers, networks):
    ends = networks(workers(n_workers))
    n_rounds, _ = rounds_of(pair, mode, ends)
    answers = [end.counted[2] / n_rounds for end in ends]
    drafts = mode != "plain"
    n_feature_workers = sum(answer > 1.5 for answer in answers[:-1]) if drafts else 0
    expected = paper.round_trips(n_workers, drafts, n_feature_workers)
    assert sum(answers) == pytest.approx(expected, abs=0.25), (answers, [end.counted for end in ends])


def test_every_graph_is_sent_once(pair, workers, networks):
    ends = networks(workers(2))
    n_rounds, _ = rounds_of(pair, "tree", ends)
    graphs = sum(n for end in ends for name, n in end.counted[0].items() if name.startswith("GRAPH_COMPUTE"))
    again = sum(end.counted[0].get("GRAPH_RECOMPUTE", 0) for end in ends)
    assert graphs <= 0.5 * n_rounds, "graphs that were sent before are sent again"
    assert again >= 3 * n_rounds


def test_a_round_receives_hidden_states_features_and_candidates_and_no_rows_of_logits(tmp_path, workers, networks):
    pair = Pair(tmp_path, "llama")
    ends = networks(workers(2))
    n_rounds, n_tokens = rounds_of(pair, "tree", ends)
    received = sum(end.counted[3] for end in ends) / n_rounds
    hidden = 13 * N_EMBD * 4  # of the tree's nodes, from the first worker
    features = 2 * (n_tokens / n_rounds + 1) * N_EMBD * 4  # of two layers
    candidates = 16 * 2 * 32 * 4  # of the drafter's positions, at most
    assert received < hidden + features + candidates + 500
    n_vocab = 320
    assert received < 13 * n_vocab * 4, "rows of logits crossed"


def test_a_round_of_a_long_text_sends_no_more(dense, workers, networks):
    """An attention mask grows with the text, but it is runs of two words."""
    ends = networks(workers(2))
    sent = []
    for n_before in (16, 380):
        llm = dense.load("tree", ends)
        llm.eval((PROMPT * 24)[:n_before])
        steps = llm.generate((PROMPT * 24)[:n_before] + [48], temp=0.0, reset=True)
        list(itertools.islice(steps, 30))
        for end in ends:
            end.reset_counts()
        before = llm.speculative_stats.rounds
        list(itertools.islice(steps, 40))
        sent.append(sum(sum(end.sent.values()) for end in ends) / (llm.speculative_stats.rounds - before))
        steps.close()
        llm.close()
    assert sent[1] < 1.5 * sent[0], sent


def test_no_host_pointer_is_in_what_an_op_is_told(hybrid, workers, networks):
    """Ops are numbers, and their parameters too: none has the address of a function or of a buffer of this process."""
    seen = []

    def look(data: bytes, to_worker: bool) -> bytes:
        if to_worker:
            seen.append(data)
        return data

    ends = networks(workers(1), change=look)
    llm = hybrid.load("tree", ends)
    hybrid.tokens(llm, 20)
    llm.close()
    params = [tensor.op_params for tensor in tensors_in(b"".join(seen))]
    assert len(params) > 100
    addresses = {value for words in params for value in struct.unpack("<8Q", words) if 0x5500_0000_0000 <= value < 0x8000_0000_0000}
    assert not addresses


# ---------------------------------------------------------------- reading graphs


class Tensor:
    """ggml's rpc_tensor, as far as it is looked at."""

    SIZE = 8 + 4 + 8 + 16 + 16 + 4 + 64 + 4 + 80 + 8 + 8 + 8 + 64 + 4

    def __init__(self, data: bytes):
        self.op = int.from_bytes(data[52:56], "little")
        self.op_params = data[56:120]


def tensors_in(stream: bytes):
    """The tensors of the graphs in a client's stream of requests."""
    compute, compute_packed = 10, 19
    place = 0
    while place + 9 <= len(stream):
        command, size = stream[place], int.from_bytes(stream[place + 1 : place + 9], "little")
        data = stream[place + 9 : place + 9 + size]
        place += 9 + size
        if command == 14 or command == 0xDF:  # a new connection begins: HELLO, then who we are
            continue
        if command in (compute, compute_packed):
            graph = unpacked(data) if command == compute_packed else data
            n_nodes = int.from_bytes(graph[4:8], "little")
            start = 8 + 8 * n_nodes
            n_tensors = int.from_bytes(graph[start : start + 4], "little")
            for i in range(n_tensors):
                first = start + 4 + i * Tensor.SIZE
                yield Tensor(graph[first : first + Tensor.SIZE])


def unpacked(message: bytes) -> bytes:
    """The plain twin of rpc_unpack (native/rpc/pack.h)."""
    size, place, out = int.from_bytes(message[:8], "little"), 8, b""
    while len(out) + 4 <= size:
        n, run = struct.unpack_from("<II", message, place)
        out += message[place + 8 : place + 8 + 4 * n]
        place += 8 + 4 * n
        if run:
            out += message[place : place + 4] * run
            place += 4
    return out + message[place:]
