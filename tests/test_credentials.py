"""What opens doors is found and taken out; what only looks long is left alone."""

from __future__ import annotations

import base64
import random
import string
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mlm_pretrain import escaping
from mlm_pretrain.config.public import public_config, public_record, public_results, without_places
from mlm_pretrain.config.secrets import find_secrets
from mlm_pretrain.config_file import load_config, make_config
from mlm_pretrain.credentials import find_credential, looks_random, names_secret, without_credentials
from mlm_pretrain.errors import UserError
from mlm_pretrain.run import RunDirectory

CONFIGS = [
    file for file in sorted((Path(__file__).parent.parent / "configs").glob("*.yaml")) if "accelerate" not in file.stem
]
_CHANCE = random.Random(5)


def chance(size: int, letters: str = string.ascii_letters + string.digits) -> str:
    return "".join(_CHANCE.choices(letters, k=size))


def key64(size: int) -> str:
    return base64.b64encode(_CHANCE.randbytes(size)).decode()


def web_token() -> str:
    return ".".join(
        base64.urlsafe_b64encode(part).decode().rstrip("=") for part in (b'{"alg": 1}', b'{"sub": 2}', b"x" * 9)
    )


PRIVATE = f"-----BEGIN {'RSA '}PRIVATE KEY-----\n{key64(48)}\n{key64(48)}\n-----END RSA PRIVATE KEY-----"
# What a value is, and the part that nobody may see.
SECRETS = {
    "token of the Hub": (f"hf_{(a := chance(34))}", a),
    "token of a forge": (f"clone with ghp_{(b := chance(36))} please", b),
    "key of a service": (f"sk-proj-{(c := chance(20))}7{chance(20)}", c),
    "web token": ((d := web_token()), d),
    "key id": (f"AKIA{(e := chance(16, string.ascii_uppercase))}", e),
    "private key": (PRIVATE, PRIVATE.splitlines()[1]),
    "password in an address": (f"s3://reader:{(f := chance(9))}@bucket/corpus", f),
    "token in an address": (f"https://{(g := chance(24))}@files.example.org/x.txt", g),
    "signed by Amazon": (
        f"https://b.s3.amazonaws.com/x.txt?X-Amz-Date=1&X-Amz-Signature={(h := chance(64, '0123abcdef'))}",
        h,
    ),
    "signed by Google": (f"https://storage.googleapis.com/b/x?X-Goog-Signature={(i := chance(40))}&alt=media", i),
    "shared access": (f"https://acc.blob.core.windows.net/c/x.parquet?sv=2024&sig={(j := chance(30))}%3D", j),
    "token parameter": (f"https://files.example.org/x.csv?token={(k := chance(12))}", k),
    "connection string": (f"DefaultEndpointsProtocol=https;AccountName=me;AccountKey={(m := key64(64))};", m[:40]),
    "database": (f"Server=db.example.org;Password={(n := chance(8))};", n),
    "header": (f"Authorization: Bearer {(o := chance(12))}", o),
    "login": (f"Basic {(p := base64.b64encode(b'reader:open sesame 1').decode())}", p),
}


@pytest.mark.parametrize(("text", "secret"), SECRETS.values(), ids=SECRETS)
def test_a_credential_is_found_in_any_value_and_taken_out_of_any_message(text: str, secret: str) -> None:
    assert find_credential(text) is not None
    for spoken in (text, f"403 Forbidden: '{text}' (try again)", repr({"url": text})):
        assert secret not in without_credentials(spoken)
        for shown in (
            str(UserError(spoken)),
            escaping.terminal(spoken),
            escaping.given(spoken),
            without_places(spoken),
        ):
            assert secret not in shown


@pytest.mark.parametrize(("text", "secret"), SECRETS.values(), ids=SECRETS)
@pytest.mark.parametrize("place", ["path", "data_files", "label", "options", "description", "citation", "fill_mask"])
def test_no_config_keeps_or_shows_a_secret_wherever_it_stands(
    text: str, secret: str, place: str, tmp_path: Path
) -> None:
    source: dict[str, Any] = {"source": "hub", "path": "a/b"}
    data: dict[str, Any] = {"text": {"sources": [source]}}
    if place in ("path", "data_files", "label"):
        source[place] = text
    elif place == "options":
        source[place] = {"deep": [{"er": text}]}
    elif place == "fill_mask":
        data["evaluation"] = {"fill_mask": [text]}
    else:
        data["publish"] = {place: {"note": text} if place == "citation" else text}
    found = dict(find_secrets(make_config(data).model_dump(mode="json")))
    if place in ("description", "citation", "fill_mask") and not find_credential(text, prose=True):
        return  # prose may speak of passwords
    assert len(found) == 1 and secret not in str(found)
    run = RunDirectory(tmp_path / "run")
    with pytest.raises(UserError, match=place) as error:
        run.write_config(make_config(data))
    assert secret not in str(error.value) and not run.root.exists()
    if place != "fill_mask":
        assert secret not in str(public_config(make_config(data).model_dump(mode="json")))


NAMED = [
    "account_key", "accountKey", "sas_token", "connection_string", "connectionString", "private_key", "X-Api-Key",
    "key", "secret", "token", "password", "aws_secret_access_key", "aws_session_token", "Authorization",
    "client_secret",
    "Ocp-Apim-Subscription-Key", "passphrase", "credential", "Cookie", "refresh_token", "shared_access_signature",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("value", ["open sesame", 4711, ["a", "b"], {"x": "y"}])
def test_a_name_tells_a_secret(name: str, value: Any) -> None:
    options = {"storage_options": {"anon": False, name: value, "endpoint_url": "https://example.org"}}
    data = make_config({"text": {"sources": [{"source": "hub", "path": "a/b", "options": options}]}}).model_dump(
        mode="json"
    )
    found = [key for key, _ in find_secrets(data)]
    assert found and all(key.startswith(f"text.sources.0.options.storage_options.{name}") for key in found)
    shown, left_out = public_config(data)
    assert "storage_options" not in shown["text"]["sources"][0].get("options", {})
    assert any(key.startswith("text.sources.0.options.storage_options.") for key in left_out)


@pytest.mark.parametrize(
    "name",
    ["mask_token", "tokens", "add_tokens", "tokens_column", "keyboard", "monkey", "keys", "secretary", "token_type"],
)
def test_names_that_only_sound_alike_are_none(name: str) -> None:
    assert not names_secret(name)


@pytest.mark.parametrize("value", [None, True, False, "anon", "google_default", "", {}, __file__])
def test_a_way_to_log_in_is_no_secret(value: Any) -> None:
    assert list(find_secrets({"options": {"token": value}})) == []


ORDINARY = [
    "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2",
    "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract-fulltext",
    "sk-news-corpus-2023-full-deduplicated",
    "google/bert_uncased_L-2_H-128_A-2",
    "Qwen2_5OmniToken2WavBigVGANModel",
    "Wav2Vec2BertForXVector",
    "9f2feb0f1ef425b292f2f94bc8482494df430413",
    "models--bert/snapshots/9f2feb0f1ef425b292f2f94bc8482494df430413/model.safetensors",
    "/var/folders/h5/8yk2j3q7x9p1v6r5t0w3z8c40000gn/T/pytest-of-me/corpus.txt",
    "https://drive.google.com/uc?export=download&id=1BxiMVs0XRA5nFMdKvBdBZjgmUUqptlbs74",
    "abfs://container@account.dfs.core.windows.net/corpus/*.parquet",
    "ssh://git@example.org/corpus.git",
    "hdfs://reader@namenode:8020/corpus",
    "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
    "data/2024-01-31T235959Z/part-00000-of-00128.c000.zstd.parquet",
    "wikimedia/wikipedia, 20231101.zh-classical",
    "The token = [MASK] is passed as password=[MASK] in the Authorization header: see Basic usage.",
    "Donaudampfschiffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft",
    str(uuid.UUID(int=2**127 + 12345678901234567890)),
]


@pytest.mark.parametrize("text", ORDINARY)
def test_what_is_only_long_is_no_secret(text: str) -> None:
    assert find_credential(text) is None and not looks_random(text)
    assert without_credentials(text) == text
    assert list(find_secrets({"path": text, "revision": text, "train": [text]})) == []


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_our_own_configs_hold_none_and_are_published_whole(file: Path) -> None:
    data = load_config(file).model_dump(mode="json")
    assert list(find_secrets(data)) == []
    shown, left_out = public_config(data)
    assert left_out == [] and make_config(shown) == make_config(without_places(data))


def test_formulas_in_sentences_are_no_secret() -> None:
    sentence = "CC1ccc2nc3ccccc3nc2c1OC7Ns8Br9Nc4Xe2 [MASK]"
    data = make_config({"evaluation": {"fill_mask": [sentence]}}).model_dump(mode="json")
    assert list(find_secrets(data)) == [] and public_config(data)[0]["evaluation"]["fill_mask"] == [sentence]


def test_most_keys_are_told_by_their_look_and_hashes_never() -> None:
    keys = [key64(32) for _ in range(200)] + [chance(40) for _ in range(200)]
    assert sum(map(looks_random, keys)) > 0.85 * len(keys)
    assert not any(looks_random(_CHANCE.randbytes(20).hex()) for _ in range(200))
    assert dict(find_secrets({"options": {"unheard_of": next(key for key in keys if looks_random(key))}}))


def test_what_nobody_decided_about_is_not_published() -> None:
    source = {"source": "hub", "path": "a/b", "options": {"columns": ["x"], "trick": "word", "pin": 4711}}
    model = {"preset": "nano", "config": {"hidden_act": "gelu", "num_attention_heads": 2, "remark": "in-house"}}
    data = make_config({"text": {"sources": [source]}, "model": model}).model_dump(mode="json")
    data["plugins"] = ["/home/me/parts.py"]
    data["text"]["later"] = {"some": "text", "number": 3}
    shown, left_out = public_config(data)
    assert shown["text"]["sources"][0]["options"] == {"columns": ["x"]}
    assert shown["model"]["config"] == {"hidden_act": "gelu", "num_attention_heads": 2}
    assert "plugins" not in shown and shown["text"]["later"] == {"number": 3}
    assert set(left_out) == {
        "text.sources.0.options.trick", "text.sources.0.options.pin", "model.config.remark", "plugins.0",
        "text.later.some",
    }  # fmt: skip


def test_records_are_published_by_what_is_known_of_them() -> None:
    task = {
        "task": "ner",
        "pretrained": 0.5,
        "labels": ["A", "B"],
        "note": "a word",
        "details": {"by_class": {"A": 1.0}},
    }
    results = {"tasks": {"x": task}, "versions": {"torch": "2.13"}, "scribble": {"a": 1}, "seconds": {"pretrain": 3}}
    shown = public_results(results)
    assert shown == {
        "tasks": {"x": {key: value for key, value in task.items() if key != "note"}},
        "versions": {"torch": "2.13"},
        "seconds": {"pretrain": 3},
    }
    line = {"step": 3, "loss": 1.5, "where": "/home/me", "sources": {"files:/home/me/a.txt": {"tokens": 5}}}
    assert public_record(line) == {"step": 3, "loss": 1.5, "sources": {"files:a.txt": {"tokens": 5}}}


@given(st.text(), st.text())
def test_taking_out_never_fails_and_comes_to_rest(before: str, after: str) -> None:
    text = f"{before}?sig=abcdef123{after}"
    once = without_credentials(text)
    assert without_credentials(once) == once


def test_messages_and_tracebacks_of_the_command_line_hold_none(tmp_path: Path) -> None:
    secret = chance(30)
    address = f"https://files.example.org/x.txt?X-Amz-Signature={secret}"
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"text": {"sources": [{"source": "files", "path": address}]}}), encoding="utf-8")
    command = [sys.executable, "-m", "mlm_pretrain", "tokenizer", str(config), f"run.output_dir={tmp_path}"]
    for further in ([], ["--debug"], ["--log-format", "json"]):
        done = subprocess.run([*command, *further], capture_output=True, text=True, check=False)
        assert done.returncode != 0 and secret not in done.stdout + done.stderr
        assert "X-Amz-Signature" in done.stderr or "signed address" in done.stderr
    assert not any(secret in file.read_text() for file in tmp_path.rglob("*") if file.is_file() and file != config)
