"""`python -m ssl_diffusion.cli`: the command `ssld`, for programs that start it with their own interpreter."""

from .main import run

if __name__ == "__main__":
    run()
