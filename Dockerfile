# docker build -t candor . && docker run -p 8080:8080 candor
FROM rust:1-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked && cp target/release/candor /candor

FROM debian:bookworm-slim
RUN useradd --system --no-create-home candor
COPY --from=build /candor /usr/local/bin/candor
COPY config/candor.toml /etc/candor/candor.toml
USER candor
EXPOSE 8080
ENTRYPOINT ["candor"]
CMD ["serve", "--listen", "0.0.0.0:8080", "--config", "/etc/candor/candor.toml"]
