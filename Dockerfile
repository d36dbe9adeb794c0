# explaind in a container, with the bundled SqueezeNet:
#   docker build -t explaind . && docker run -p 8080:8080 explaind
#   docker build -t explaind:cuda --target cuda . && docker run --gpus all -p 8080:8080 explaind:cuda
# Own models: -v "$PWD/models:/opt/explaind/models:ro". Other commands: docker run explaind derive --help.

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/src/target --mount=type=cache,target=/usr/local/cargo/registry \
    cargo build --locked --release && install -Ds target/release/explaind /out/explaind

FROM debian:bookworm-slim AS fetch
RUN apt-get update && apt-get install -y --no-install-recommends python3-pip && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY scripts/fetch_onnxruntime.sh scripts/
RUN scripts/fetch_onnxruntime.sh cpu /out/runtime

FROM fetch AS fetch-cuda
RUN scripts/fetch_onnxruntime.sh cuda /out/runtime-cuda

FROM nvidia/cuda:13.0.1-cudnn-runtime-ubuntu24.04 AS cuda
COPY --from=fetch-cuda /out/runtime-cuda /opt/explaind/runtime
ENV EXPLAIND_PROVIDERS=cuda
COPY --from=build /out/explaind /usr/local/bin/explaind
COPY LICENSE* /opt/explaind/
COPY fonts/LICENSE /opt/explaind/fonts/
COPY models /opt/explaind/models
COPY --chmod=755 docker/healthcheck /usr/local/bin/healthcheck
RUN install -d -o nobody /var/lib/explaind
VOLUME /var/lib/explaind
WORKDIR /opt/explaind
ENV EXPLAIND_LISTEN=0.0.0.0:8080 EXPLAIND_DATA=/var/lib/explaind
EXPOSE 8080
USER nobody
HEALTHCHECK --start-period=60s --interval=15s --timeout=3s CMD ["healthcheck"]
ENTRYPOINT ["explaind"]
CMD ["serve"]

FROM debian:bookworm-slim AS cpu
RUN apt-get update && apt-get install -y --no-install-recommends libstdc++6 && rm -rf /var/lib/apt/lists/*
COPY --from=fetch /out/runtime /opt/explaind/runtime
COPY --from=build /out/explaind /usr/local/bin/explaind
COPY LICENSE* /opt/explaind/
COPY fonts/LICENSE /opt/explaind/fonts/
COPY models /opt/explaind/models
COPY --chmod=755 docker/healthcheck /usr/local/bin/healthcheck
RUN install -d -o nobody /var/lib/explaind
VOLUME /var/lib/explaind
WORKDIR /opt/explaind
ENV EXPLAIND_LISTEN=0.0.0.0:8080 EXPLAIND_DATA=/var/lib/explaind
EXPOSE 8080
USER nobody
HEALTHCHECK --start-period=60s --interval=15s --timeout=3s CMD ["healthcheck"]
ENTRYPOINT ["explaind"]
CMD ["serve"]
