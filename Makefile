# `make demo` and `make test` each make the environment they need, in .venv, and do their work.
#
#   PYTHON       the interpreter to make the environment with
#   TENSORFLOW   the version of TensorFlow to build for
#   EXTRAS       what the tests install; onnx is not for the older versions, whose ml_dtypes it replaces
#   VENV         where the environment is made
#   WORKERS      how many processes compile and test
#   OLDEST       the version of TensorFlow that `make test-oldest` is for

PYTHON ?= python3
TENSORFLOW ?= 2.21
EXTRAS ?= test,onnx
VENV ?= .venv
WORKERS ?= 2
BIN = $(VENV)/bin

# The demo's run. A KL divergence of little weight leaves z the style of an 8 x 8 digit.
RUN ?= runs/demo
EPOCHS ?= 60
DEMO = train --dataset digits --epochs $(EPOCHS) --batch-size 50 --learning-rate 2e-3 --beta 0.2 --seed 1

export TF_CPP_MIN_LOG_LEVEL ?= 2
export MPLBACKEND ?= agg

# Compiled in half the time that -O2 -g takes, the sanitized tests run as fast.
SANITIZED = -DCMAKE_BUILD_TYPE=RelWithDebInfo -DCMAKE_CXX_FLAGS_RELWITHDEBINFO='-O1 -g1'

SOURCES = setup.py pyproject.toml CMakeLists.txt $(shell find cc cmake python -name '*.py' -o -name '*.cc' -o -name '*.cu' -o -name '*.h')
CXX_FILES = $(shell find cc tests -name '*.cc' -o -name '*.cu' -o -name '*.h')

# What depends on the versions of TensorFlow and Keras: the ops and the layers in all their uses.
OLDEST ?= 2.16
VERSION_TESTS = ops derivatives xla transformations saved_gradients layers callbacks portable library core_module models

.PHONY: demo test test-oldest lint types core-test sanitized-test emulated-test python-test short-demo fuzz dependencies cuda-evidence develop clean

demo: $(VENV)/with-lab
	$(BIN)/separationfactor $(DEMO) --output $(RUN) $(if $(wildcard $(RUN)/config.json),--resume)

test:
	@start=$$(date +%s); $(MAKE) lint core-test python-test short-demo && \
	echo "make test took $$((($$(date +%s) - start) / 60)) minutes"

# The same package on the oldest TensorFlow that is supported. All versions: nox.
test-oldest:
	$(MAKE) python-test TENSORFLOW=$(OLDEST) EXTRAS=test VENV=.venv-$(OLDEST) TESTS="$(VERSION_TESTS:%=tests/test_%.py)"

# The compiled code and the command line together, on few epochs.
short-demo: $(VENV)/with-$(EXTRAS)
	rm -rf build/short-demo
	$(BIN)/separationfactor $(DEMO) --epochs 2 --output build/short-demo
	$(BIN)/separationfactor traverse build/short-demo --label 1 --to 4
	$(BIN)/separationfactor info

lint: $(VENV)/with-$(EXTRAS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $(CXX_FILES)

# The library's types, and the public API's as a user's type checker sees them.
types: $(VENV)/with-$(EXTRAS)
	$(BIN)/pip install --quiet mypy==2.4.1 basedpyright==1.40.2
	$(BIN)/mypy
	$(BIN)/basedpyright --pythonpath $(BIN)/python

# The core's tests, with a tenth of the cases of the CUDA kernels on their emulator.
core-test: $(VENV)/with-$(EXTRAS)
	$(BIN)/cmake -S . -B build/core -DSEPARATIONFACTOR_EMULATED_CASES=0.1
	$(BIN)/cmake --build build/core --parallel $(WORKERS)
	$(BIN)/ctest --test-dir build/core --output-on-failure --parallel $(WORKERS)

# All cases of the CUDA kernels, and the AVX-512 kernels, on their emulators.
emulated-test: $(VENV)/with-$(EXTRAS)
	$(BIN)/cmake -S . -B build/core -DSEPARATIONFACTOR_EMULATED_CASES=1
	$(BIN)/cmake --build build/core --parallel $(WORKERS)
	$(BIN)/ctest --test-dir build/core --output-on-failure --parallel $(WORKERS) --label-regex emulated

# The core's tests under AddressSanitizer and UndefinedBehaviorSanitizer.
sanitized-test: $(VENV)/with-$(EXTRAS)
	$(BIN)/cmake -S . -B build/sanitized -DSEPARATIONFACTOR_EMULATED_CASES=0.05 -DSEPARATIONFACTOR_SANITIZE=address,undefined $(SANITIZED)
	$(BIN)/cmake --build build/sanitized --parallel $(WORKERS)
	$(BIN)/ctest --test-dir build/sanitized --output-on-failure --parallel $(WORKERS)

python-test: $(VENV)/with-$(EXTRAS)
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal $(TESTS)

# Corrupted data sets; the tests load a sample of them.
fuzz: $(VENV)/with-$(EXTRAS)
	$(BIN)/python tests/fuzz_data.py

# The picture of the imports and includes, docs/dependencies.svg.
dependencies:
	$(PYTHON) tests/dependencies.py

# What can be known of the CUDA kernels without a card; needs nvcc.
cuda-evidence: $(VENV)/with-$(EXTRAS)
	$(BIN)/python cc/benchmark/cuda_evidence.py

# The developer's environment: an editable install, whose compiled code `python setup.py build_ext --inplace`
# rebuilds, compiling what has changed.
develop: $(VENV)/tensorflow
	$(BIN)/pip install --quiet 'setuptools>=77' cmake ninja 'pybind11>=2.12'
	$(BIN)/pip install --quiet --no-build-isolation --editable '.[$(EXTRAS)]'
	touch '$(VENV)/with-$(EXTRAS)' $(VENV)/with-lab

$(VENV)/tensorflow:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet 'tensorflow-cpu==$(TENSORFLOW).*'
	touch $@

$(VENV)/with-%: $(VENV)/tensorflow $(SOURCES)
	$(BIN)/pip install --quiet cmake '.[$*]'
	touch $@ $(VENV)/with-lab

clean:
	rm -rf build dist .venv* .nox python/*.egg-info
