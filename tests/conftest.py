"Options of the test run."


def pytest_addoption(parser):
    parser.addoption("--fuzz", type=int, default=100, help="damaged files to try of each kind in test_fuzz.py")
