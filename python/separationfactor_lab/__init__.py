"""The laboratory beside the library: commands, training runs, metrics, studies and the benchmark.

This package imports the library, `separationfactor`. The library never imports this package. The extra `lab`
lists its requirements. Neither this module nor `cli` imports TensorFlow, so that help and tab completion are
fast.
"""

import os

# The top-level modules of the packages in the extra `lab`.
_REQUIRED = ("click", "matplotlib", "rich", "scipy", "sklearn", "tensorboard", "threadpoolctl")


def main() -> None:
    """Runs the command `separationfactor`."""
    # TensorFlow prints only errors, unless the user has set the variable.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        from separationfactor_lab.cli import main

        main()
    except ImportError as error:
        name = (error.name or "").partition(".")[0]
        if name in ("tensorflow", "keras"):
            raise SystemExit(str(error)) from None
        if name in _REQUIRED:
            raise SystemExit(_what_to_install(name)) from None
        raise


def _what_to_install(name: str) -> str:
    from separationfactor_lab.startup import load

    try:
        (installation,) = load("separationfactor.installation")
    except ImportError as error:  # TensorFlow is missing too
        return str(error)
    return (
        f"separationfactor's commands need the extra `lab`, but {name} is not installed. To install it: "
        f"{installation.command(extra='[lab]')}"
    )
