# docker build -t candor .                          CPU
# docker build -t candor:cuda --target cuda .       NVIDIA GPUs; --build-arg CUDA_COMPUTE_CAP=89, see docs/gpu.md
# export CANDOR_API_KEY=$(docker run --rm candor keys new | head -1)
# docker run --rm --read-only -p 127.0.0.1:8080:8080 -e CANDOR_API_KEY -v candor-data:/data candor
#
# It listens at 0.0.0.0, so it does not start without a key: CANDOR_API_KEY (the key itself), CANDOR_API_KEY_FILE (a file with it, such as a mounted secret),
# [[keys]] tables in a configuration mounted at /etc/candor/candor.toml, or, where everybody may use it, --insecure. deploy/compose.yaml makes a key.
# docs/deploy.md says what of this has been run, and where.

FROM rust:1-bookworm AS toolchain
# nasm: the vector code of the JPEG decoder. python3: tools/sbom.py, and the compiler for CUDA.
# hadolint ignore=DL3008
RUN apt-get update -q && apt-get install -qy --no-install-recommends nasm python3 python3-pip && rm -rf /var/lib/apt/lists/*
WORKDIR /src
ENV CARGO_INCREMENTAL=0

# The dependencies alone, with an empty crate in place of Candor's: built again when these files change, and not when src does.
FROM toolchain AS dependencies
COPY Cargo.toml Cargo.lock ./
COPY .cargo/config.toml .cargo/
RUN mkdir src benches && touch src/lib.rs benches/core.rs && echo 'fn main() {}' > src/main.rs
RUN cargo build --release --locked && cargo clean --release -p candor

FROM dependencies AS build
COPY . .
RUN cargo build --release --locked && strip -o /candor target/release/candor
RUN python3 tools/sbom.py --out /candor.cdx.json

# The same for CUDA; candle's kernels are most of it, and are in the first of the two builds.
FROM toolchain AS dependencies-cuda
ARG CUDA_COMPUTE_CAP=90
ENV CUDA_COMPUTE_CAP=$CUDA_COMPUTE_CAP CUDA_ROOT=/opt/cuda13 CUDA_TARGET_DIR=/src/target/cuda
# What the binary looks for when it starts, for CUDA 13.0, as the compiler is.
RUN python3 -m pip install --no-cache-dir --no-deps --no-compile --target /opt/libraries nvidia-cublas==13.0.2.14 nvidia-curand==10.4.0.35
COPY Cargo.toml Cargo.lock ./
COPY .cargo/config.toml .cargo/
COPY tools/cuda_build.sh tools/
RUN mkdir src benches && touch src/lib.rs benches/core.rs && echo 'fn main() {}' > src/main.rs
RUN tools/cuda_build.sh /tmp/candor && cargo clean --release --target-dir target/cuda --target x86_64-unknown-linux-gnu -p candor

FROM dependencies-cuda AS build-cuda
COPY . .
RUN tools/cuda_build.sh /candor
RUN python3 tools/sbom.py --features cuda --out /candor.cdx.json

FROM debian:bookworm-slim AS runtime
ARG VERSION=0.1.0
# The bundle in the binary has terms of its own: models/candor-mini/card.md.
LABEL org.opencontainers.image.title="Candor" \
      org.opencontainers.image.description="OpenAI-compatible server that captions photographs and says which of its words the image does not support" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.licenses="Apache-2.0 AND LicenseRef-research-only" \
      org.opencontainers.image.base.name="debian:bookworm-slim" \
      candor.bundle="candor-mini 0.5.0" \
      candor.bundle.license="research-only" \
      candor.bundle.terms="research and education only, not for commercial use: trained on Flickr8k; see /usr/share/doc/candor/card.md"
# New volumes at these places belong to the user too.
RUN useradd --system --uid 999 --no-create-home candor && install -d -m 700 -o candor /data /keys /stores
COPY config/candor.toml /etc/candor/candor.toml
COPY LICENSE models/candor-mini/card.md src/lexicon/LICENSE.wordnet /usr/share/doc/candor/
# Models from the Hub are kept in the volume: nothing else can be written to.
ENV HF_HOME=/data/huggingface
# By number, so that Kubernetes can tell that it is not root.
USER 999
# Corrections are kept here, in candor-data; all else may be read-only.
WORKDIR /data
VOLUME /data
EXPOSE 8080
# The image has no client for HTTP, and the command line has no such command; bash opens the connection itself.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/8080 && printf 'GET /health/ready HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n' >&3 && read -rt 4 line <&3 && [[ $line == *' 200 '* ]]"]
ENTRYPOINT ["candor"]
CMD ["serve", "--listen", "0.0.0.0:8080", "--config", "/etc/candor/candor.toml"]

FROM runtime AS cuda
# The driver comes from the machine, by NVIDIA's container toolkit.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility LD_LIBRARY_PATH=/opt/libraries/nvidia/cu13/lib
COPY --from=build-cuda /opt/libraries /opt/libraries
COPY --from=build-cuda /candor.cdx.json /usr/share/doc/candor/
COPY --from=build-cuda /candor /usr/local/bin/candor

FROM runtime AS cpu
COPY --from=build /candor.cdx.json /usr/share/doc/candor/
COPY --from=build /candor /usr/local/bin/candor
