# docker build -t candor .
# export CANDOR_API_KEY=$(docker run --rm candor keys new | head -1)
# docker run --rm --read-only -p 127.0.0.1:8080:8080 -e CANDOR_API_KEY -v candor-data:/data candor
#
# It listens at 0.0.0.0, so it does not start without a key: CANDOR_API_KEY (the key itself), CANDOR_API_KEY_FILE (a file with it, such as a mounted secret),
# [[keys]] tables in a configuration mounted at /etc/candor/candor.toml, or, where everybody may use it, --insecure. deploy/compose.yaml makes a key.
FROM rust:1-bookworm AS build
# For the vector code of the JPEG decoder.
RUN apt-get update -q && apt-get install -qy --no-install-recommends nasm && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN cargo build --release --locked && cp target/release/candor /candor

FROM debian:bookworm-slim
# New volumes at these places belong to the user too.
RUN useradd --system --uid 999 --no-create-home candor && install -d -m 700 -o candor /data /keys
COPY --from=build /candor /usr/local/bin/candor
COPY config/candor.toml /etc/candor/candor.toml
# By number, so that Kubernetes can tell that it is not root.
USER 999
# Corrections are kept here, in candor-data; all else may be read-only.
WORKDIR /data
VOLUME /data
EXPOSE 8080
ENTRYPOINT ["candor"]
CMD ["serve", "--listen", "0.0.0.0:8080", "--config", "/etc/candor/candor.toml"]
