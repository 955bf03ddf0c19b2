"""Rows of an episode: each completion is trained on once, and the last one stands last."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from m2gym.backends.verl.chains import chains, parents
from m2gym.forge.records import PoolCompletion


def completion(prompt: list[int], answer: list[int], version: int = 0) -> PoolCompletion:
    return PoolCompletion(
        np.array(prompt, np.int32),
        np.array(answer, np.int32),
        -np.arange(1, len(answer) + 1, dtype=np.float32) / 8,
        np.full(len(answer), version, np.int32),
    )


def test_turns_are_one_row_with_what_the_environment_wrote_masked() -> None:
    first, second = completion([1, 2], [3, 4]), completion([1, 2, 3, 4, 9, 9], [5], 2)
    (row,) = chains([first, second])
    assert (row.prompt_ids, row.response_ids) == ([1, 2], [3, 4, 9, 9, 5])
    assert row.mask == [1, 1, 0, 0, 1]
    assert row.logprobs == [-0.125, -0.25, 0, 0, -0.125]
    assert row.versions == [0, 0, 0, 0, 2]
    assert row.answers == 2


def test_a_fork_is_two_rows_and_the_shared_answer_is_trained_once() -> None:
    root = completion([1], [2])
    one, other = completion([1, 2, 3], [4]), completion([1, 2, 5], [6])
    rows = chains([root, one, other])
    assert [row.response_ids for row in rows] == [[2, 3, 4], [2, 5, 6]]
    assert [row.mask for row in rows] == [[1, 0, 1], [0, 0, 1]]


def test_another_prompt_is_a_row_of_its_own_and_the_final_one_is_last() -> None:
    rows = chains([completion([1], [2]), completion([7], [8]), completion([1, 2, 3], [4])])
    assert [row.prompt_ids for row in rows] == [[7], [1]]
    assert rows[-1].response_ids[-1] == 4


def test_equal_prompts_do_not_extend_one_another() -> None:
    assert parents([completion([1, 2], [3]), completion([1, 2], [3])]) == [None, None]


@given(st.lists(st.tuples(st.integers(-1, 5), st.lists(st.integers(0, 2), max_size=3))))
def test_every_answer_is_trained_on_exactly_once(tree: list[tuple[int, list[int]]]) -> None:
    made: list[PoolCompletion] = []
    for number, (above, more) in enumerate([(-1, [0]), *tree]):
        base = [0]
        if 0 <= above < len(made):
            base = [*made[above].prompt_ids.tolist(), *made[above].response_ids.tolist()]
        made.append(completion([*base, *more, 100 + number], [200 + number, 1]))
    rows = chains(made)
    trained = [
        id
        for row in rows
        for id, mask in zip(row.response_ids, row.mask, strict=True)
        if mask and id >= 200
    ]
    assert sorted(trained) == [200 + n for n in range(len(made))]
    assert rows[-1].response_ids[-2] == 200 + len(made) - 1
    assert sum(row.answers for row in rows) == len(made)
    assert all(len(row.mask) == len(row.logprobs) == len(row.versions) for row in rows)
