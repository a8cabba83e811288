"""Planted canaries: every kind of secret is found, and innocent code stays as it is.

The canaries are put together here, so that this file itself holds none.
"""

from __future__ import annotations

import base64
import random
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codetune.corpus.secrets import redact

_CHANCE = random.Random(7)


def draw(count: int, letters: str = string.ascii_letters + string.digits) -> str:
    return "".join(_CHANCE.choice(letters) for _ in range(count))


HEX = "0123456789abcdef"
PEM = "\n".join(draw(64, string.ascii_letters + string.digits + "+/") for _ in range(12))
BEGIN, END = "-----BEGIN RSA PRIVATE" + " KEY-----", "-----END RSA PRIVATE" + " KEY-----"


def _jwt() -> str:
    parts = ('{"alg":"HS256","typ":"JWT"}', '{"sub":"1234567890","name":"Jo"}')
    encoded = [base64.urlsafe_b64encode(part.encode()).decode().rstrip("=") for part in parts]
    return ".".join([*encoded, draw(43)])


CANARIES = {
    "AWS_KEY_ID": "AKIA" + draw(16, string.ascii_uppercase + "234567"),
    "GITHUB_TOKEN": "ghp_" + draw(36),
    "GITHUB_TOKEN fine": "github_pat_" + draw(22) + "_" + draw(59),
    "GITLAB_TOKEN": "glpat-" + draw(20),
    "SLACK_TOKEN": "xoxb-"
    + draw(12, string.digits)
    + "-"
    + draw(12, string.digits)
    + "-"
    + draw(24),
    "GOOGLE_KEY": "AIza" + draw(35),
    "GOOGLE_SECRET": "GOCSPX-" + draw(28),
    "HUGGING_FACE_TOKEN": "hf_" + draw(34, string.ascii_letters),
    "STRIPE_KEY": "sk_live_" + draw(24),
    "OPENAI_KEY": "sk-" + draw(48),
    "OPENAI_KEY project": "sk-proj-" + draw(80),
    "ANTHROPIC_KEY": "sk-ant-api03-" + draw(80),
    "PYPI_TOKEN": "pypi-AgEIcHlwaS5vcmc" + draw(80),
    "NPM_TOKEN": "npm_" + draw(36),
    "SENDGRID_KEY": "SG." + draw(22) + "." + draw(43),
    "TWILIO_KEY": "SK" + draw(32, HEX),
    "DIGITALOCEAN_TOKEN": "dop_v1_" + draw(64, HEX),
    "TELEGRAM_TOKEN": draw(9, "123456789") + ":AA" + draw(33),
    "JWT": _jwt(),
}


@pytest.mark.parametrize("kind", CANARIES)
@pytest.mark.parametrize(
    "line",
    ['client = connect("{}")\n', "{}", "# old: {}\n", "export X={}\n", "curl -H 'X: {}' u\n"],
)
def test_issued_credentials_are_replaced(kind, line):
    secret = CANARIES[kind]
    found = redact(line.format(secret))
    name = kind.split()[0]
    assert found.text == line.format(f"REDACTED_{name}")
    assert found.kinds == {name: 1}


@pytest.mark.parametrize(
    "line",
    [
        'password = "{}"',
        "PASSWORD: '{}'",
        '    "api_key": "{}",',
        "client_secret => '{}'",
        'let auth_token: String = "{}".into();',
        "DB_PASSWORD={}",
        "secret_key: {}",
        'settings["token"] = "{}"',
        'const string ApiKey = "{}";',
        'private static final String SECRET = "{}";',
    ],
)
def test_random_values_of_telling_names_are_replaced(line):
    secret = "q7" + draw(22)
    found = redact(f"first\n{line.format(secret)}\nlast\n")
    assert found.text == f"first\n{line.format('REDACTED_SECRET')}\nlast\n"


PASSWORDS = ["s3cr3tP4ssw0rdXYZ99", "kX9#mQ2$vL7pRw4!tZ8nB", "k3jx9qwpzm2v4q"]


@pytest.mark.parametrize("value", PASSWORDS)
@pytest.mark.parametrize(
    "line",
    [
        "DB_PASSWORD={}",
        "DB_PASSWORD={}\r",
        "db_password: {} # prod",
        "spring.datasource.password = {}",
        "export TOKEN={}; run",
        "TOKEN={} ./run",
        "  - API_TOKEN={}",
    ],
)
def test_values_without_quotes_are_replaced(value, line):
    found = redact(f"first\n{line.format(value)}\nlast\n")
    assert found.text == f"first\n{line.format('REDACTED_SECRET')}\nlast\n"


def test_a_key_of_django_has_brackets():
    text = "SECRET_KEY=django-insecure-8d#k2l@4m5n(7w)q&z1x^v9b\n"
    assert redact(text).text == "SECRET_KEY=REDACTED_SECRET\n"


@pytest.mark.parametrize(
    "address", ["postgres://app:{}@db.internal:5432/app", "https://bot:{}@git.example.org/a.git"]
)
def test_passwords_of_addresses_are_replaced(address):
    assert redact(f'URL = "{address.format("s9X!k2vQ")}"').text == (
        f'URL = "{address.format("REDACTED_PASSWORD")}"'
    )


def _login() -> str:
    return base64.b64encode(f"x-access-token:{draw(30)}".encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "line",
    [
        "\textraheader = AUTHORIZATION: {}",
        "curl -H 'Authorization: {}' u",
        'headers = {{"Authorization": "{}"}}',
        'headers["authorization"] = f"{}"',
        'request.setHeader("Authorization", "{}");',
    ],
)
@pytest.mark.parametrize(
    "scheme, value, kind",
    [
        ("basic", _login(), "BASIC_LOGIN"),
        ("Basic", base64.b64encode(b"bot:s9X!k2v").decode(), "BASIC_LOGIN"),
        ("bearer", "q7" + draw(30), "BEARER_TOKEN"),
        ("Bearer", draw(40, HEX), "BEARER_TOKEN"),
        ("token", "q7" + draw(30), "BEARER_TOKEN"),
    ],
)
def test_what_an_authorization_header_holds_is_replaced(line, scheme, value, kind):
    found = redact(line.format(f"{scheme} {value}"))
    assert found.text == line.format(f"{scheme} REDACTED_{kind}")
    assert found.kinds == {kind: 1}


@pytest.mark.parametrize(
    "block",
    [
        f"KEY = '''{BEGIN}\n{PEM}\n{END}'''\n",
        "".join(f'    "{line}\\n"\n' for line in (BEGIN, *PEM.split("\n"), END)),
        'key = "' + BEGIN + "\\n" + PEM.replace("\n", "\\n") + "\\n" + END + '"\n',
    ],
    ids=["block", "strings", "escaped"],
)
def test_private_keys_keep_their_lines(block):
    found = redact("before()\n" + block + "after()\n")
    assert found.kinds == {"PRIVATE_KEY": 1}
    assert found.text.count("\n") == block.count("\n") + 2
    assert found.text.startswith("before()\n")
    assert found.text.endswith("after()\n")
    for line in PEM.split("\n"):
        assert line not in found.text
        assert line[:40] not in found.text


INNOCENT = [
    'password = get_password("database")',
    'password = "changeme"',
    "token = os.environ['API_TOKEN']",
    'SECRET_KEY = "django-insecure-example-key-for-tests"',
    'api_key = "your-api-key-goes-here-1234"',
    'token_url = "https://login.example.org/oauth2/v2/token"',
    "token = tokenizer.next_token_of_the_stream_2(buffer)",
    'password_field_name = "user_password_confirmation"',
    "s3://access_key:secret_access_key@bucket",
    "postgres://user:password@localhost/test",
    "postgres://{user}:{password}@{host}/db",
    'url = "http://host:8080/path@2x.png"',
    "sha256 = 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855'",
    "commit 7b5199fdeff7d7682e9f979f468d55bc7b67b934",
    "AKIAIOSFODNN7EXAMPLE",
    "sk-learn-contrib and task-based-scheduling-of-things",
    "const SKIP = 'SK'; hf_hub_download(); xoxo",
    'f(secret="short")',
    "private_key: ${{ secrets.PRIVATE_KEY_OF_THE_DEPLOY_JOB }}",
    "if '-----BEGIN PRIVATE' in text: parse(text)",
    "keyboard = 'qwertyuiop'",
    "authorization: basic auth is used",
    "Authorization: Basic authentication is what the server understands",
    "authorization: bearer tokens are sent with every request",
    "Authorization: Bearer ${{ secrets.TOKEN_OF_THE_DEPLOY_JOB_2 }}",
    'headers["Authorization"] = f"Bearer {settings.token_of_the_registry}"',
    'headers = {"Authorization": "Bearer " + tokens["registry2"]["production1"]}',
    "authorization = basic_authorization_of(request, realm2, users3)",
    "Authorization: Bearer YOUR_ACCESS_TOKEN_GOES_HERE",
    "password = get_password_from_keyring(name)",
    "token = md5(user1 + x9)",
    "token: Annotated[str, Depends(x)]",
    "auth_token: OAuth2AccessToken",
    "secret: Base64EncodedString;",
    "token: Uint8Array | null",
    "token = sha256_digest;",
    "password: user1Password2",
    "TOKEN=hashlib.sha256(b1).hexdigest()",
    "TOKEN=$1",
    "TOKEN=$(k8s x1y2z3)",
    "password: ${DB_PASSWORD}",
    "password: $DB_P4ss_2x9Kq",
    'secret_key_base: <%= ENV["X"] %>',
    "secretName: db-tls-x509-v1a",
    "token_path=/run/s6/t1/a2b3c4",
    "token_mask = 0x1f2e3d4c5b6a7;",
    "token_scale = 1.2345678e-10",
    "token_expires: 2024-03-15T17:46:28.953Z",
]


@pytest.mark.parametrize("line", INNOCENT)
def test_innocent_code_stays(line):
    assert redact(line).text == line


def test_a_secret_inside_another_is_one():
    value = draw(24)
    redacted = redact(f"AUTH_TOKEN=client_secret={value}\nFEATURE_FLAG=on\nRETRIES=3\n")
    assert redacted.text == "AUTH_TOKEN=REDACTED_SECRET\nFEATURE_FLAG=on\nRETRIES=3\n"
    assert redacted.kinds == {"SECRET": 1}


@given(st.text())
def test_lines_are_never_added_or_lost(text):
    assert redact(text).text.count("\n") == text.count("\n")


def test_redacting_again_changes_nothing():
    text = "\n".join(f"x = '{secret}'" for secret in CANARIES.values())
    once = redact(text).text
    assert redact(once).text == once
    assert not any(secret in once for secret in CANARIES.values())


def test_a_megabyte_without_secrets_is_fast():
    import time

    text = "password token secret key = value  # ://\n" * 25_000
    start = time.process_time()
    redact(text)
    assert time.process_time() - start < 2
