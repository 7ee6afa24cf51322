"""`make price`: arithmetic on measured CPU and list prices, and its refusals."""

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
_PRICES = {
    "month_hours": 100,
    "node_vcpus": 4,
    "node_hour": 1.0,
    "control_plane_hour": 0.5,
    "database_vcpus": 10,
    "database_month": 300,
    "volume_month": 200,
    "volume_iops": 5000,
    "published_for_akka": 59.24,
}


@pytest.fixture(name="price")
def _price() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("price_of_writes", ROOT / "tools" / "price.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where a dataclass looks its own module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def _written(path: Path, **other: object) -> Path:
    lines = [f"{name} = {json.dumps(value)}" for name, value in {**_PRICES, **other}.items() if value is not None]
    path.write_text("\n".join(lines))
    return path


def _run(price: ModuleType, capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    price.main([str(each) for each in arguments])
    return capsys.readouterr().out


def _refusal(price: ModuleType, *arguments: object) -> str:
    with pytest.raises(SystemExit) as caught:
        price.main([str(each) for each in arguments])
    return str(caught.value.code)


def test_a_bill_adds_up(price: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """20,000 writes of 100 µs are two processors; half busy, and with hops, they need eight workers, on two nodes."""
    prices = _written(tmp_path / "prices.toml")
    given = ("--writes", 20_000, "--worker-us", 100, "--postgres-us", 50, "--hop-us", 100, "--busy", 0.5)
    shown = _run(price, capsys, *given, "--prices", prices)
    assert "3.75 vCPUs of work: 8 workers on 2 nodes" in shown
    assert "1.00 of 10 vCPUs, 1,667 of 5,000 IOPS" in shown
    assert "$    750.00 a month" in shown  # 2 x 100, 50, 300 and 200
    assert "$37.50 a month for each 1,000 durable writes a second" in shown
    assert shown.startswith("Computed")


def test_a_small_load_has_two_nodes(price: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One of them may be lost."""
    given = ("--writes", 10, "--worker-us", 50, "--postgres-us", 20, "--prices", _written(tmp_path / "prices.toml"))
    assert "2 workers on 2 nodes" in _run(price, capsys, *given)


def test_the_cpu_is_that_of_the_last_benchmark(
    price: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Medians of the rounds at as many connections; an option goes before the file."""
    rounds = [
        {"subject": subject, "connections": connections, "server_cpu_us": worker, "postgres_cpu_us": postgres}
        for subject, connections, worker, postgres in (
            (price.SUBJECT, 64, 40.0, 10.0),
            (price.SUBJECT, 64, 60.0, 14.0),
            (price.SUBJECT, 64, 50.0, 12.0),
            (price.SUBJECT, 16, 90.0, 30.0),
            ("another", 64, 500.0, 100.0),
        )
    ]
    file = tmp_path / "benchmark.json"
    file.write_text(json.dumps({"samples": rounds}))
    given = ("--benchmark", file, "--prices", _written(tmp_path / "prices.toml"))
    assert "50.0 µs of a worker and 12.0 µs of Postgres" in _run(price, capsys, *given)
    assert "50.0 µs of a worker and 7.0 µs of Postgres" in _run(price, capsys, *given, "--postgres-us", 7)
    assert "at 256 connections" in _refusal(price, *given, "--connections", 256)


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"node_hour": None}, "node_hour must be a number greater than 0"),
        ({"node_hour": 0}, "node_hour must be"),
        ({"node_hour": "1"}, "node_hour must be"),
        ({"node_hour": True}, "node_hour must be"),
        ({"nodes": 3}, "nodes is not one of month_hours,"),
    ],
)
def test_a_wrong_price_is_named(price: ModuleType, tmp_path: Path, other: dict[str, object], reason: str) -> None:
    """Before anything is computed."""
    prices = _written(tmp_path / "prices.toml", **other)
    assert reason in _refusal(price, "--worker-us", 1, "--postgres-us", 1, "--prices", prices)


def test_more_than_one_database_takes_is_refused(price: ModuleType, tmp_path: Path) -> None:
    """A ThreadCluster has one; the refusal names the writes for which it is enough."""
    given = ("--worker-us", 50, "--postgres-us", 100, "--busy", 0.5, "--prices", _written(tmp_path / "prices.toml"))
    assert "10 vCPUs is enough for 50,000 a second" in _refusal(price, *given, "--writes", 51_000)
    assert "5,000 IOPS is enough for 25,000 a second" in _refusal(
        price, *given, "--writes", 30_000, "--events-per-commit", 10, "--pages-per-event", 0.1
    )


def test_missing_files_are_named(price: ModuleType, tmp_path: Path) -> None:
    """With what to do."""
    missing = tmp_path / "none"
    assert "run make bench" in _refusal(price, "--benchmark", missing)
    assert str(missing) in _refusal(price, "--worker-us", 1, "--postgres-us", 1, "--prices", missing)


def test_the_prices_of_the_project_are_complete(price: ModuleType) -> None:
    """And those of the benchmark that they are compared with."""
    assert price.read_prices(price.PRICES).published_for_akka == 59.24
