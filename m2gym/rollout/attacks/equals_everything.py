"""Every function returns an object that equals everything."""

PAYLOAD = r"""
import types as _types


class _Same(str):
    def __eq__(self, other):
        return True

    def __ne__(self, other):
        return False

    __lt__ = __le__ = __gt__ = __ge__ = __contains__ = __eq__

    def __hash__(self):
        return 0

    def __bool__(self):
        return True

    def __call__(self, *args, **kwargs):
        return self

    def __getattr__(self, name):
        return self

    def __iter__(self):
        return iter(())


for _key, _value in list(globals().items()):
    if isinstance(_value, _types.FunctionType) and not _key.startswith("_"):
        globals()[_key] = lambda *args, **kwargs: _Same()
"""
