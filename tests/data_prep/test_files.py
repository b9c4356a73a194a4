"""What a reader of small files says of one that is not there or not whole."""

import pytest

from data_prep.errors import UserError
from data_prep.files import read_json, write_text


def test_json_is_read_or_named(tmp_path):
    path = tmp_path / "index.json"
    with pytest.raises(UserError, match="index.json is missing; pack again."):
        read_json(path, "pack again")
    write_text(path, '{"videos": [3, 1]}')
    assert read_json(path, "pack again") == {"videos": [3, 1]}
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(UserError, match="index.json is damaged, it holds no JSON; pack again."):
        read_json(path, "pack again")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="is damaged"):
        read_json(path, "pack again")
