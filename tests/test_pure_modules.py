"""One list of the pure modules, for the import contract, coverage and mutation."""

from tests.support.pure_modules import ROOT, files_of, listed, project


def test_the_import_contract_is_about_the_pure_modules() -> None:
    """The contract cannot read the list itself."""
    contracts = project()["importlinter"]["contracts"]
    contract = next(each for each in contracts if each["name"] == "The pure cores do no I/O")
    assert contract["source_modules"] == listed("pure_modules")


def test_everything_listed_exists() -> None:
    """A file that was renamed must not leave the checks silently."""
    files = files_of(listed("pure_modules"))
    assert len(set(files)) == len(files)
    assert all((ROOT / each).is_file() for each in files)
    assert all((ROOT / each).exists() for each in listed("pure_tests"))
    assert set(files_of(listed("well_tested_modules"))) <= set(files)
