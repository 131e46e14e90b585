"""The laboratory beside the library: the commands, training runs, metrics, studies and the benchmark.

It imports the library, `separationfactor`; the library never imports it. Its requirements are the extra
`lab`. Neither this file nor `cli` imports TensorFlow, so that help and tab completion are quick.
"""

import os

# The modules of the extra `lab`.
_REQUIRED = ("click", "matplotlib", "rich", "scipy", "sklearn", "tensorboard", "threadpoolctl")


def main() -> None:
    """Runs the command `separationfactor`."""
    # TensorFlow prints errors only, unless the user has set the variable.
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
    except ImportError as error:  # TensorFlow is not installed either
        return str(error)
    return (
        f"separationfactor's commands need the extra `lab`, of which {name} is not installed. To install it: "
        f"{installation.command(extra='[lab]')}"
    )
