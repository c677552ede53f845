# wsd alone: one static binary, no shell, no library, not root.
#
#   docker build --tag wsd .
#   docker run --publish 8080:8080 --ulimit nofile=65536:65536 wsd --threads 2
#
# docs/deploys.md says what `docker stop` allows for, and what Docker does to descriptor tables.

FROM rust:1.91-slim-bookworm AS build
WORKDIR /src
COPY . .
# With a target of its own the flag is for the program alone, not for what runs while it is built. wsd resolves
# `localhost` itself and takes addresses as numbers, which is all that a static glibc can do without its libraries.
RUN TARGET="$(rustc --print host-tuple)" \
    && export RUSTFLAGS='-C target-feature=+crt-static -C strip=debuginfo' \
    && cargo build --release --locked --package wsd --bin wsd --target "$TARGET" \
    && install -D -m 755 "target/$TARGET/release/wsd" /image/wsd

FROM scratch
COPY --from=build /image/wsd /wsd
USER 65532:65532
EXPOSE 8080
# `docker stop` sends SIGTERM and 10 seconds later SIGKILL: the drain fits into that. Where more time is given, as in
# Kubernetes, it should be taken.
ENV WSD_LISTEN=0.0.0.0:8080 \
    WSD_DRAIN_GRACE=0 \
    WSD_DRAIN_SPREAD=4s \
    WSD_DRAIN_TIMEOUT=9s
HEALTHCHECK --interval=10s --timeout=4s --start-period=2s --retries=3 CMD ["/wsd", "health"]
ENTRYPOINT ["/wsd"]
