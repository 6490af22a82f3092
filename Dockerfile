# docker build -t candor . && docker run -p 8080:8080 -v candor-data:/data candor
FROM rust:1-bookworm AS build
# For the vector code of the JPEG decoder.
RUN apt-get update -q && apt-get install -qy --no-install-recommends nasm && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN cargo build --release --locked && cp target/release/candor /candor

FROM debian:bookworm-slim
RUN useradd --system --no-create-home candor && install -d -o candor /data
COPY --from=build /candor /usr/local/bin/candor
COPY config/candor.toml /etc/candor/candor.toml
USER candor
# Corrections are kept here, in candor-data.
WORKDIR /data
VOLUME /data
EXPOSE 8080
ENTRYPOINT ["candor"]
CMD ["serve", "--listen", "0.0.0.0:8080", "--config", "/etc/candor/candor.toml"]
