"""No password, key or signed URL gets into a record: of configs, command lines and patches."""

from __future__ import annotations

import pytest

from mmtrain.config.secret import MASK, is_secret, mask_argument, mask_arguments, mask_urls, masked, secret_line


@pytest.mark.parametrize(
    "key",
    ["password", "db_password", "logger.wandb.api_key", "apiKey", "hf_token", "data.secret.value",
     "AWS_SECRET_ACCESS_KEY", "private-key", "client_secret", "token", "accessToken", "credentials"],
)  # fmt: skip
def test_the_name_of_a_secret_is_known(key: str) -> None:
    assert is_secret(key)


@pytest.mark.parametrize(
    "key",
    ["pad_token", "eos_token", "bosToken", "num_tokens", "tokenizer", "key", "model.token_embedding", "monkey",
     "sort_key", "class_token", "budget.tokens", "keep_last"],
)  # fmt: skip
def test_a_token_of_a_vocabulary_and_a_plain_key_are_no_secrets(key: str) -> None:
    assert not is_secret(key)


def test_a_config_is_copied_without_its_secrets() -> None:
    config = {
        "logger": {"x": {"api_key": "abc", "password": 1234, "project": "p", "hf_token": None}},
        "data": {"root": "s3://me:pw@host/a", "train": ["https://host/a?X-Amz-Signature=f00&b=1"], "tokens": 7},
        "tuple": (1, 2),
        "auth_token": "",
    }
    assert masked(config) == {
        "logger": {"x": {"api_key": MASK, "password": MASK, "project": "p", "hf_token": None}},
        "data": {"root": "s3://host/a", "train": [f"https://host/a?X-Amz-Signature={MASK}&b=1"], "tokens": 7},
        "tuple": [1, 2],
        "auth_token": "",
    }
    assert config["logger"]["x"]["api_key"] == "abc"  # type: ignore[index]


@pytest.mark.parametrize(
    ("argument", "shown"),
    [
        ("optim.lr=1e-3", "optim.lr=1e-3"),
        ("+logger.x.api_key=abc", f"+logger.x.api_key={MASK}"),
        ("++a.hf_token=x=y", f"++a.hf_token={MASK}"),
        ("logger={x: {api_key: abc, name: n}}", f"logger={{x: {{api_key: {MASK}, name: n}}}}"),
        ("data.root=https://u:p@host/x", "data.root=https://host/x"),
        ("data.tokenizer.pad_token=<pad>", "data.tokenizer.pad_token=<pad>"),
    ],
)
def test_an_override_is_shown_without_its_secret(argument: str, shown: str) -> None:
    assert mask_argument(argument) == shown


def test_a_secret_may_stand_after_its_option() -> None:
    assert mask_arguments(["mmtrain", "--api-key", "abc", "--steps", "3"]) == [
        "mmtrain",
        "--api-key",
        MASK,
        "--steps",
        "3",
    ]
    assert mask_arguments(["--password=abc", "--token"]) == [f"--password={MASK}", "--token"]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:pass@host/path", "https://host/path"),
        ("https://user:p@ss@host/path", "https://host/path"),
        ("see s3://key@bucket/a and http://host/?token=abc#x", f"see s3://bucket/a and http://host/?token={MASK}#x"),
        ("https://host/a@b?mail=c@d", "https://host/a@b?mail=c@d"),
    ],
)
def test_an_url_is_shown_without_user_and_signature(url: str, shown: str) -> None:
    assert mask_urls(url) == shown


@pytest.mark.parametrize(
    "line",
    [
        '+API_KEY = "a1b2c3d4e5"',
        "-    'password': 'Correct-Horse'",
        '+os.environ["WANDB_API_KEY"] = "0123456789abcdef"',
        " -----BEGIN RSA PRIVATE KEY-----",
        "+remote = 'https://me:hunter2@host/x'",
        "+t = 'hf_" + "a" * 34 + "'",
        "+AKIA" + "A" * 16,
    ],
)
def test_a_secret_in_source_is_found_by_its_line(line: str) -> None:
    assert secret_line(f"diff --git a/x b/x\n@@ -1 +1 @@\n{line}\n", settings=False) == 3


@pytest.mark.parametrize(
    "line",
    [
        '+API_KEY = os.environ["API_KEY"]',
        '+pad_token: str = "<|endoftext|>"',
        '+    password = "{password}"',
        "+token: Tensor = tokens12[0]",
        '+secret_key = "secret_key_name"',
        '+    name = "a1b2c3d4e5"',
        "+sha256 = '" + "0f" * 32 + "'",
    ],
)
def test_a_name_or_a_placeholder_is_no_secret(line: str) -> None:
    assert secret_line(line, settings=False) is None


def test_a_secret_in_settings_needs_no_quotes() -> None:
    for line in ("+  api_key: a1b2c3d4e5", "+export HF_TOKEN=a1b2c3d4e5", " password = hunter2hunter2  # mine"):
        assert secret_line(line, settings=True) == 1
        assert secret_line(line, settings=False) is None
    for line in ("+api_key: ${oc.env:API_KEY_1}", "+pad_token: token123456", "+  tokenizer: cl100k_base"):
        assert secret_line(line, settings=True) is None
