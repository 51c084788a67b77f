"""`python -m nexrl_proxy`: the same as `nexrl proxy`."""

import typer

from nexrl_proxy.serve import proxy

if __name__ == "__main__":
    typer.run(proxy)
