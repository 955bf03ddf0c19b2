import json

import pytest

from m2gym.core.errors import InputError
from m2gym.rollout.records import DamagedError, decode, encode, index, scan


def test_a_line_round_trips_and_any_json_reader_reads_it(record):
    trajectory = record()
    line = encode(trajectory)
    assert line.count(b"\n") == 1
    assert decode(line[:-1]) == trajectory
    plain = json.loads(line)
    assert plain["task"] == "a"
    assert len(plain["sha256"]) == 64


def test_every_changed_byte_is_seen(record):
    line = encode(record())[:-1]
    for position in range(0, len(line), 7):
        changed = bytearray(line)
        changed[position] ^= 1
        with pytest.raises(InputError):
            decode(bytes(changed))


def ends(file):
    return [end for _, end in index(file)]


def test_a_last_line_torn_anywhere_is_no_record(tmp_path, record):
    first, second = encode(record("a")), encode(record("b"))
    file = tmp_path / "r.jsonl"
    for cut in [*range(0, len(second), 37), len(second) - 1]:
        file.write_bytes(first + second[:cut])
        assert [t.task for t in scan(file)] == ["a"]
        assert ends(file)[-1] == len(first)
    file.write_bytes(first + second)
    assert ends(file)[-1] == len(first) + len(second)


def test_damage_in_the_middle_names_the_line(tmp_path, record):
    file = tmp_path / "r.jsonl"
    lines = [encode(record(task)) for task in "abc"]
    file.write_bytes(lines[0] + lines[1].replace(b'"gold"', b'"cold"') + lines[2])
    with pytest.raises(DamagedError, match="line 2: the checksum differs"):
        list(scan(file))
    file.write_bytes(lines[0][:40] + lines[1] + lines[2])
    with pytest.raises(DamagedError, match="line 1"):
        list(scan(file))


def test_a_record_of_another_schema_is_named_by_its_field(record):
    import hashlib

    body = encode(record())[:-1].split(b',"sha256"')[0].replace(b'"env"', b'"environ"') + b"}"
    line = body[:-1] + b',"sha256":"' + hashlib.sha256(body).hexdigest().encode() + b'"}'
    with pytest.raises(InputError, match="env"):
        decode(line)
