#!/usr/bin/env bash
# Builds candor for NVIDIA GPUs, on a machine that needs neither a GPU nor an installed CUDA: the compiler comes as Python wheels, and CUDA's libraries are loaded when the program starts.
# docs/gpu.md says what the result needs where it runs. About 17 minutes on two cores, later builds 3 to 4. Needs Rust, gcc, Python with pip, and glibc 2.34.
#
#   tools/cuda_build.sh [OUT]      the stripped binary, by default target/cuda/candor
#
# CUDA_COMPUTE_CAP=90   the GPU's compute capability without the dot: 80 (A100), 86, 89 (L4, RTX 40), 90 (H100, H200; the default), 120 (RTX 50)
# CUDA_ROOT, CUDA_TARGET_DIR   where the compiler is kept and where is built, by default below ~/.cache: a constant place, since candle's kernels alone take 8 minutes
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-target/cuda/candor}
root=${CUDA_ROOT:-$HOME/.cache/cuda13}
build=${CUDA_TARGET_DIR:-$HOME/.cache/candor/cuda}
triple=x86_64-unknown-linux-gnu

export CUDA_HOME=$root/nvidia/cu13
export NVCC=$CUDA_HOME/bin/nvcc PATH=$CUDA_HOME/bin:$PATH
export CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP:-90} CUDARC_CUDA_VERSION=13000 CUDAFORGE_THREADS=${CUDAFORGE_THREADS:-2}

# Pinned: the driver compiles the kernels' PTX when they are first used, and drivers of the 580 series refuse that of a newer nvcc.
if [ ! -x "$NVCC" ]; then
    python3 -m pip install --quiet --disable-pip-version-check --no-deps --no-compile --target "$root" \
        nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85
fi

# The linker is asked for these by name although nothing of theirs is linked; empty libraries do.
stubs=$CUDA_HOME/lib/stubs
mkdir -p "$stubs"
for library in cuda nvrtc curand cublas cublasLt; do
    [ -e "$stubs/lib$library.so" ] || gcc -shared -x c -o "$stubs/lib$library.so" /dev/null
done
ln -sf ../libcudart_static.a "$stubs/libcudart.a"
ln -sfn lib "$CUDA_HOME/lib64"

# candle asks its bindings to link CUDA, and their Cargo feature for loading it at run time excludes that; the setting alone reaches the bindings and, thanks to --target, not their build script.
# The variable replaces the flags of .cargo/config.toml, so that they stand here too.
RUSTFLAGS='-C target-cpu=x86-64-v3 --cfg feature="dynamic-loading"' CARGO_TARGET_DIR=$build \
    cargo build --release --locked --features cuda --target "$triple"

mkdir -p "$(dirname "$out")"
strip -o "$out" "$build/$triple/release/candor"
ls -l "$out"
