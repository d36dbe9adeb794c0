# explaind with the bundled SqueezeNet, on the CPU or on a GPU of NVIDIA:
#   docker build -t explaind . && docker run --rm -p 8080:8080 explaind
#   docker build -t explaind:cuda --build-arg VARIANT=cuda . && docker run --rm --gpus all -p 8080:8080 explaind:cuda
# Your own models: -v "$PWD/models:/opt/explaind/models:ro". Other commands: docker run --rm explaind derive --help.
# The debug information that the image leaves out: docker build --target debug --output . .

ARG VARIANT=cpu

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/src/target --mount=type=cache,target=/usr/local/cargo/registry \
    cargo build --locked --release && mkdir /out && cd /out && \
    objcopy --only-keep-debug /src/target/release/explaind explaind.debug && \
    objcopy --strip-all --add-gnu-debuglink=explaind.debug /src/target/release/explaind explaind

FROM scratch AS debug
COPY --from=build /out/explaind.debug /

FROM debian:bookworm-slim AS runtime
ARG VARIANT
RUN apt-get update && apt-get install -y --no-install-recommends python3-pip && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY scripts/fetch_onnxruntime.sh scripts/
RUN scripts/fetch_onnxruntime.sh "$VARIANT" /out

FROM debian:bookworm-slim AS base-cpu
RUN apt-get update && apt-get install -y --no-install-recommends libstdc++6 && rm -rf /var/lib/apt/lists/*
ENV EXPLAIND_PROVIDERS=cpu

FROM nvidia/cuda:13.0.1-cudnn-runtime-ubuntu24.04 AS base-cuda
ENV EXPLAIND_PROVIDERS=cuda

FROM base-${VARIANT} AS explaind
ARG REVISION=unknown
LABEL org.opencontainers.image.title="explaind" \
      org.opencontainers.image.description="Explains the decisions of ONNX image classifiers over HTTP" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0"
COPY --from=runtime /out /opt/explaind/runtime
COPY --from=build /out/explaind /usr/local/bin/explaind
COPY LICENSE* /opt/explaind/
COPY fonts/LICENSE /opt/explaind/fonts/
COPY models /opt/explaind/models
COPY --chmod=755 docker/healthcheck /usr/local/bin/healthcheck
# Numbers, not names: Kubernetes' runAsNonRoot needs them. /var/lib/explaind-files is where compose mounts what replicas share.
RUN install -d -o 10001 -g 10001 /var/lib/explaind /var/lib/explaind-files
USER 10001:10001
VOLUME /var/lib/explaind
WORKDIR /opt/explaind
ENV EXPLAIND_LISTEN=0.0.0.0:8080 EXPLAIND_DATA=/var/lib/explaind EXPLAIND_DEFAULT_MODEL=squeezenet1_1
EXPOSE 8080
HEALTHCHECK --start-period=60s --interval=15s --timeout=3s CMD ["healthcheck"]
ENTRYPOINT ["explaind"]
CMD ["serve"]
