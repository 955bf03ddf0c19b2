"""Tools made of functions."""

from m2gym.core.tools import Tool


def test_closures_of_one_function_share_their_schema_and_keep_their_own_world():
    def make(base, extra=0):
        def add(n: int, more: int = extra) -> int:
            """Add."""
            return base + n + more

        return Tool(add)

    one, two, other = make(1), make(2), make(3, extra=5)
    assert one.schema is two.schema
    assert (one.function(1), two.function(1), other.function(1)) == (2, 3, 9)
    assert one.bind({"n": 1}) == {"n": 1, "more": 0}
    assert other.bind({"n": 1}) == {"n": 1, "more": 5}
    assert Tool(one.function, "plus").schema.name == "plus"

    def listed(items: list[int] = [1]) -> int:  # noqa: B006  # a default without a hash
        return len(items)

    assert Tool(listed).bind({}) == {"items": [1]}
