#!/usr/bin/env bash
# Regenerates the stubs in wire/ from the contract. They are committed.
#
# The generator is pinned: stubs of grpcio-tools 1.75.1 import under protobuf 6.33 and 7, stubs of
# later generators refuse 6.33. It pins protobuf itself, so it has an environment of its own.
set -euo pipefail
cd "$(dirname "$0")/.."

python="${PYTHON:-python3}"
tools=.venv-proto
if [ ! -x "$tools/bin/protoc-gen-mypy" ]; then
  "$python" -m venv "$tools"
  "$tools/bin/pip" install --quiet grpcio-tools==1.75.1 mypy-protobuf==3.6.0 "setuptools<81"
fi

# The virtual path `wire/` makes the stubs say `from wire import inference_pb2`.
PATH="$PWD/$tools/bin:$PATH" "$tools/bin/python" -m grpc_tools.protoc \
  -I wire=proto/tandem/v1 wire/inference.proto \
  --python_out=. --grpc_python_out=. --mypy_out=quiet:.
