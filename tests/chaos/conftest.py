"""How much chaos: the options of `./dev test --chaos`."""


def pytest_addoption(parser):
    group = parser.getgroup("chaos")
    group.addoption("--chaos", action="store_true", help="do it")
    group.addoption("--kills", type=int, default=200, help="SIGKILLs in all")
    group.addoption("--postgres", action="store_true", help="keep the job rows in PostgreSQL")
