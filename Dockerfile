# syntax=docker/dockerfile:1
# The image `parley`: gateway, speech front, stand-in LLM, client and tools; no Triton, no model, no compiler, no pip.
# Built by scripts/build gateway. Each RUN is a script of docker/steps, which the tests run in an empty folder.
ARG BASE=docker.io/library/debian:bookworm-slim@sha256:88200866dfff7ea7f5cbcb6ec7c8a701889efe6fe859fe64d6990e4b07ea4171

FROM ${BASE} AS build
ARG LOCKS="gateway cloud" MODELS="asr_pocketsphinx tts_flite"
RUN --mount=type=bind,source=docker/steps,target=/steps /steps/system.sh build
RUN --mount=type=bind,target=/src --mount=type=secret,id=pip,target=/etc/pip.conf /src/docker/steps/tools.sh
RUN --mount=type=bind,target=/src --mount=type=secret,id=uv,target=/etc/uv/uv.toml /src/docker/steps/packages.sh
RUN --mount=type=bind,target=/src /src/docker/steps/parley.sh
RUN --mount=type=bind,source=docker/steps,target=/steps /steps/bytecode.sh
RUN --mount=type=bind,target=/src /src/docker/steps/models.sh
RUN --mount=type=bind,target=/src /src/docker/steps/papers.sh

FROM ${BASE}
ARG VERSION=0 REVISION=unknown CREATED=1970-01-01T00:00:00Z
LABEL org.opencontainers.image.title="parley" \
      org.opencontainers.image.description="Parley: the gateway of a self-hosted voice stack, its speech front and its client" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
RUN --mount=type=bind,source=docker/steps,target=/steps /steps/system.sh run
COPY --from=build /opt/parley /opt/parley
RUN ["ln", "-s", "/opt/parley/licenses", "/licenses"]
ENV PATH=/opt/parley/bin:/usr/local/bin:/usr/bin:/bin PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp
USER 1000:1000
WORKDIR /tmp
EXPOSE 50050 50051 8080 8081 8082 8090
ENTRYPOINT ["parley"]
CMD ["serve", "gateway"]
