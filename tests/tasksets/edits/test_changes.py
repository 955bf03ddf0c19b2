import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2gym.core.errors import InputError
from m2gym.tasksets.edits.changes import by_function, hunks, merged, same_code

OLD = b"""import a

def f():
    x = 1
    return x

class C:
    def g(self):
        return 2
"""
NEW = OLD.replace(b"import a", b"import b").replace(b"x = 1", b"x = 3").replace(b"2", b"4")

lines = st.lists(st.sampled_from([b"a\n", b"b\n", b"c\n", b"d"]), max_size=12).map(b"".join)


@given(old=lines, new=lines)
def test_all_hunks_give_the_new_text_and_none_the_old(old: bytes, new: bytes) -> None:
    count = len(hunks(old, new))
    assert merged(old, new, range(count)) == new
    assert merged(old, new, []) == old


@given(old=lines, new=lines, data=st.data())
def test_hunks_left_out_are_the_hunks_of_what_remains(
    old: bytes, new: bytes, data: st.DataObject
) -> None:
    count = len(hunks(old, new))
    taken = data.draw(st.sets(st.integers(0, max(count - 1, 0)), max_size=count))
    rest = set(range(count)) - taken
    if count:
        assert merged(merged(old, new, taken), new, []) == merged(old, new, taken)
        assert len(merged(old, new, taken)) + len(merged(old, new, rest)) == len(old) + len(new)


def test_hunks_are_grouped_by_the_function_around_them() -> None:
    assert len(hunks(OLD, NEW)) == 3
    assert by_function(OLD, NEW) == [(0,), (1,), (2,)]
    longer = OLD.replace(b"    x = 1\n", b"    x = 1\n    pass\n")
    both = longer.replace(b"x = 1", b"x = 9").replace(b"return x", b"return -x")
    assert by_function(longer, both) == [(0, 1)]


def test_an_absent_hunk_is_refused() -> None:
    with pytest.raises(InputError, match="3 hunks, and no hunk 7"):
        merged(OLD, NEW, [7])


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        (b"x = 1\n", b"x = 1  # why\n", True),
        (b"def f():\n    'a'\n", b"def f():\n    'b'\n", True),
        (b"f(1,2)\n", b"f(1, 2)\n", True),
        (b"x = 'a'\n", b"x = 'b'\n", False),
        (b"x = 1\n", b"x = 2\n", False),
        (b"x =\n", b"x =\n", False),
    ],
)
def test_same_code(old: bytes, new: bytes, same: bool) -> None:
    assert same_code(old, new) is same
